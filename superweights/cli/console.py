"""What every command shares: data on stdout, everything else on stderr, one way to fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from superweights.progress import Progress
from superweights.tables.numbers import plain

if TYPE_CHECKING:
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
    notes.print(plain(text), highlight=False, soft_wrap=True)


def fail(message: str, hint: str, code: int = 1) -> int:
    """Say what went wrong and what to do, on stderr. Returns the exit code."""
    notes.print(f"[bold red]error:[/] {plain(message)}", soft_wrap=True)
    notes.print(f"[bold]hint:[/] {plain(hint)}", soft_wrap=True)
    return code


def forget_stdout() -> None:
    """Send what stdout has not been able to write nowhere, or Python would try again at exit, and complain."""
    with suppress(OSError, ValueError):  # no file behind it
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress(label: str = "opening") -> Iterator[Progress]:
    """A bar on stderr that follows (label, done, total); nothing where stderr is not a terminal.

    The notes of an interrupt (what is kept) are printed.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    try:
        with Bar(*columns, console=notes, transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(label, total=None)
            yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
    except KeyboardInterrupt as interrupt:
        for each in getattr(interrupt, "__notes__", ()):
            note(each)
        raise
