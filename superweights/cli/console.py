"""What every command shares: data on stdout, everything else on stderr, one way to fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console

from superweights.tables.numbers import plain

if TYPE_CHECKING:
    from superweights.progress import Progress
    from superweights.record import Record
    from superweights.tables.page import Parts

data = Console(highlight=False, soft_wrap=False)
notes = Console(stderr=True, highlight=False)


def print_line(text: str) -> None:
    """One line on stdout, unwrapped and unstyled: for JSON and anything a program reads."""
    sys.stdout.write(text + "\n")


def show(parts: Parts) -> None:
    """Lines and tables on stdout, nothing of them cut."""
    from superweights.tables.page import print_page

    print_page(parts, data)


def show_record(record: Record, as_json: bool) -> None:
    """JSON for programs, a line each; tables for people."""
    from superweights.tables import parts_of
    from superweights.tables.lines import json_lines

    if not as_json:
        show(parts_of(record))
        return
    for line in json_lines(record):
        print_line(line)


def show_rows(rows: Iterable[Any], as_json: bool, parts: Callable[[], Parts]) -> None:
    """What is no record: its `rows` as lines of JSON for programs, its `parts` for people."""
    from superweights.record import to_json_line

    if not as_json:
        show(parts())
        return
    for row in rows:
        print_line(to_json_line(row))


def note(text: str) -> None:
    """A sentence beside the data, on stderr."""
    _say(plain(text))


def fail(message: str, hint: str, code: int = 1) -> int:
    """Say what went wrong and what to do, on stderr. Returns the exit code."""
    _say(f"[bold red]error:[/] {plain(message)}", f"[bold]hint:[/] {plain(hint)}")
    return code


def _say(*lines: str) -> None:
    from superweights.tables.page import print_page

    print_page(lines, notes)


@contextmanager
def silence() -> Iterator[None]:
    """Nothing that is told inside reaches the terminal."""
    before = data.quiet, notes.quiet
    data.quiet = notes.quiet = True
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        data.quiet, notes.quiet = before


@contextmanager
def speaking() -> Iterator[None]:
    """What is said on stderr inside is heard, also in a `silence`."""
    before, notes.quiet = notes.quiet, False
    try:
        yield
    finally:
        notes.quiet = before


def forget_stdout() -> None:
    """Send what stdout has not been able to write nowhere, or Python would try again at exit, and complain."""
    with suppress(OSError, ValueError):  # no file behind it
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(label: str = "opening") -> AbstractContextManager[Progress]:
    """A bar on stderr for the job inside the `with`."""
    from superweights import progress_bar

    return progress_bar(label, notes)
