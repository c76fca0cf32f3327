"""The one way in for every JSON of ours: a regular file of bounded size, strict JSON, and then a noun (`shape`)."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from superweights.artefacts.shape import Fields, shaped
from superweights.errors import SuperweightsError

T = TypeVar("T")
# Nothing of ours is larger or deeper: what is, was not written by us, and is refused before it fills the memory.
LARGEST_BYTES = 64 << 20
DEEPEST = 64
_DIGITS = 20
_ELSEWHERE = "give a file that superweights wrote."


def read_noun(form: type[T], path: Path, *, hint: str = _ELSEWHERE, fields: Fields = "whole") -> T:
    """The noun `form` that stands as JSON in the file `path`.

    Raises `SuperweightsError` naming the file and the field for whatever is no such noun: see `shaped`.
    """
    return shaped(form, parse_json(read_text(path, hint=hint), str(path), hint=hint), str(path), hint, fields)


def read_text(path: Path, *, hint: str = _ELSEWHERE, largest: int = LARGEST_BYTES) -> str:
    """The text of a regular file of at most `largest` bytes.

    Raises `SuperweightsError` for a folder, a pipe or a device (which would be waited for, or never end), for a file
    that is larger, that cannot be read, or that is no UTF-8.
    """
    try:
        # A pipe without a writer would be waited for in `open` itself.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            kind = os.fstat(handle)
            if not stat.S_ISREG(kind.st_mode):
                raise SuperweightsError(f"{path} is no regular file.", hint=hint)
            if kind.st_size > largest:
                raise SuperweightsError(f"{path} has more than {largest >> 20} MB.", hint=hint)
            return file.read(largest + 1).decode("utf-8")
    except IsADirectoryError:
        raise SuperweightsError(f"{path} is a folder, and no file.", hint=hint) from None
    except ValueError as error:  # bytes that are no UTF-8, and a name with a null byte in it
        raise SuperweightsError(f"{path} is no text in UTF-8.", hint=hint) from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise SuperweightsError(f"{path} is no regular file.", hint=hint) from None
        raise SuperweightsError(f"Cannot read {path}: {error.strerror or error}.", hint=hint) from error


def parse_json(text: str, where: str, *, hint: str = _ELSEWHERE) -> Any:
    """What the strict JSON `text` holds; `where` names it in errors.

    Raises `SuperweightsError` for what is no JSON, for NaN, Infinity and numbers beyond the range of a double or of 20
    digits, for a field that stands twice in one object, and for what is nested deeper than `DEEPEST`.
    """

    def refuse(what: str) -> NoReturn:
        raise SuperweightsError(f"{where} holds the number {what}, which is none of ours.", hint=hint)

    def finite(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse(digits[:40])

    def whole(digits: str) -> int:
        return int(digits) if len(digits) <= _DIGITS else refuse(f"{digits[:40]}…")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        held = dict(pairs)
        if len(held) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise SuperweightsError(f"{where}: {twice!r} stands twice in one object.", hint=hint)
        return held

    try:
        data = json.loads(
            text, parse_float=finite, parse_int=whole, parse_constant=refuse, object_pairs_hook=once
        )
    except RecursionError:
        raise _too_deep(where, hint) from None
    except ValueError as error:
        raise SuperweightsError(f"{where} is not JSON: {error}.", hint=hint) from error
    if _deeper(data, DEEPEST):
        raise _too_deep(where, hint)
    return data


def parse_lines(text: str, where: str, *, hint: str = _ELSEWHERE) -> list[Any]:
    """What stands in JSON lines, or in one JSON text: its objects, a list's one by one."""
    try:
        whole = parse_json(text, where, hint=hint)
    except SuperweightsError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2 or not _is_json(lines[0]):
            raise
        return [parse_json(line, f"{where}, line {n}", hint=hint) for n, line in enumerate(lines, 1)]
    return whole if isinstance(whole, list) else [whole]


def _is_json(line: str) -> bool:
    """Whether the line is a whole value: then the text is lines, and else one value that is cut off."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _deeper(data: Any, deepest: int) -> bool:
    """Whether containers are nested more than `deepest` deep; walks level by level, without recursion."""
    level = [data]
    inside: Callable[[Any], Any] = lambda held: held.values() if isinstance(held, dict) else held  # noqa: E731
    for _ in range(deepest + 1):
        level = [item for held in level if isinstance(held, dict | list) for item in inside(held)]
        if not level:
            return False
    return any(isinstance(held, dict | list) for held in level)


def _too_deep(where: str, hint: str) -> SuperweightsError:
    return SuperweightsError(f"{where} is nested deeper than {DEEPEST} levels.", hint=hint)
