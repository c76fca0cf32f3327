"""Where an artefact is to stand, looked at before the work; and the hidden places beside it where it is made.

What is being made for `NAME` stands in `.NAME.<16 hexadecimal digits>.partial`, locked by the process that makes it. A
partial that nobody has locked was left by a run that is dead.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from superweights.artefacts.disk import explained, remove
from superweights.errors import SuperweightsError

# What a partial folder tells of itself, and what a growing file has of whole pieces.
MANIFEST = "superweights_manifest.json"
JOURNAL = "journal"

Kind = Literal["folder", "file"]


def check_new(to: Path, kind: Kind) -> None:
    """Raise `SuperweightsError` where no new folder (or file) can appear under the name `to`.

    A folder may be there already if it is empty. What dead runs have left for a name that is taken is removed.
    """
    _check_name(to, kind)
    with explained(to):
        if kind == "folder" and to.exists() and (not to.is_dir() or any(to.iterdir())):
            clear_dead(to, all_of_them=True)
            raise SuperweightsError(f"{to} is not an empty folder.", hint="give the name of a new folder.")
        if kind == "file" and to.exists():
            clear_dead(to, all_of_them=True)
            raise SuperweightsError(f"{to} exists already.", hint="give the name of a new file.")
    if os.path.ismount(to):
        raise SuperweightsError(
            f"A disk is mounted at {to}, so that nothing else can take its place.",
            hint="give the name of a new folder inside it.",
        )
    _check_parent(to)


def check_replaceable(to: Path) -> None:
    """Raise `SuperweightsError` where no file can be written, or take the place of one, under the name `to`."""
    if not to.is_symlink() and to.is_dir():
        raise SuperweightsError(f"Cannot write {to}.", hint="give a file name inside an existing folder.")
    _check_name(to, "file")
    with explained(to):
        if not to.parent.is_dir():
            raise SuperweightsError(f"Cannot write {to}.", hint="give a file name inside an existing folder.")
        if to.exists() and not to.is_file():
            raise SuperweightsError(
                f"{to} is no regular file.",
                hint="give the name of a file; without one, stdout is written to.",
            )
    _check_parent(to)


def check_picture(to: Path | None) -> None:
    """Raise `SuperweightsError` where no picture can be drawn into the file `to`; None is no picture at all."""
    if to is None:
        return
    if to.suffix.lower() != ".svg":
        raise SuperweightsError(f"Cannot draw into {to}.", hint="give a file name that ends in .svg.")
    check_replaceable(to)


def _check_name(to: Path, kind: Kind) -> None:
    if to.name in ("", "..") or "\0" in str(to):
        raise SuperweightsError(
            f"{str(to)!r} is no name of a new {kind}.", hint=f"name the new {kind} itself."
        )
    try:
        is_link = to.is_symlink()
        os.lstat(to.parent)
    except (FileNotFoundError, NotADirectoryError):
        is_link = False
    except OSError as error:
        raise SuperweightsError(f"{to}: {error.strerror or error}.", hint="give another name.") from error
    if is_link:
        raise SuperweightsError(
            f"{to} is a link, and nothing is written through links.", hint=f"give the name of a new {kind}."
        )
    longest = os.pathconf("/", "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if len(os.fsencode(partial_of(to, "0" * 16).name)) > longest:
        raise SuperweightsError(f"The name {to.name[:40]}… is too long.", hint="give a shorter name.")


def _check_parent(to: Path) -> None:
    """Raise where the nearest folder above that exists is none, or is not ours to write in."""
    parent = to.parent
    while not os.path.lexists(parent) and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise SuperweightsError(f"{parent} is no folder, so {to} cannot be in it.", hint="give another name.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise SuperweightsError(
            f"{parent} may not be written in.", hint="check its owner and mode, or write elsewhere."
        )


@contextmanager
def parents_made(to: Path) -> Iterator[None]:
    """The folders above `to`, made where they are not there; those go again if the body raises."""
    missing = []
    parent = to.parent
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for made in missing:
            with suppress(OSError):
                made.rmdir()
        raise


def partial_of(to: Path, mark: str) -> Path:
    """Where the work on `to` stands until it is done; `mark` is 16 hexadecimal digits."""
    return to.with_name(f".{to.name}.{mark}.partial")


def partials_of(to: Path) -> Iterator[Path]:
    """All that is being made, or was left, for `to`."""
    pattern = re.compile(rf"\.{re.escape(to.name)}\.[0-9a-f]{{16}}\.partial")
    try:
        names = [entry.name for entry in os.scandir(to.parent)]
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from (to.with_name(name) for name in names if pattern.fullmatch(name))


def lock(path: Path) -> int | None:
    """The handle that locks a partial for this process; None where another has it, or it is gone or a link."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        here, there = os.fstat(handle), os.lstat(path)
    except OSError:
        os.close(handle)
        return None
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):  # removed and made anew meanwhile
        os.close(handle)
        return None
    return handle


def clear_dead(to: Path, *, all_of_them: bool = False) -> None:
    """Remove what dead runs have left for `to`, but for work that the same command can go on from.

    With `all_of_them` that too: once `to` is there, nobody will.
    """
    for partial in partials_of(to):
        if partial.is_symlink():
            remove(partial)
            continue
        handle = lock(partial)
        if handle is None:
            continue
        try:
            if all_of_them or not is_worth_keeping(partial):
                remove(partial)
        finally:
            os.close(handle)


def refuse_company(to: Path, mine: Path) -> None:
    """Raise where another process is at work on `to` as well."""
    for partial in partials_of(to):
        if partial == mine or partial.is_symlink():
            continue
        handle = lock(partial)
        if handle is not None:
            os.close(handle)
        elif partial.exists():
            raise SuperweightsError(
                f"Another process is writing {to}.", hint="wait for it, or choose another name."
            )


def is_worth_keeping(partial: Path) -> bool:
    """Whether a partial holds a whole file, or a whole piece of one."""
    try:
        if (partial / JOURNAL).is_file():
            with open(partial / JOURNAL, "rb") as journal:
                return sum(line.endswith(b"\n") for line in journal) > 1
        held = json.loads((partial / MANIFEST).read_bytes())
        return bool(held["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
