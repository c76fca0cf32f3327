"""What every command shares: data on stdout, everything else on stderr, one way to fail."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from superweights.progress import Progress
from superweights.tables.numbers import plain

if TYPE_CHECKING:
    from superweights.record import Record
    from superweights.tables.page import Parts

data = Console(highlight=False, soft_wrap=False)
notes = Console(stderr=True, highlight=False)
# After so many seconds it is told how long a part of a job will take, if that is longer than so many.
_LOOK, _LONG = 5.0, 60.0


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


def forget_stdout() -> None:
    """Send what stdout has not been able to write nowhere, or Python would try again at exit, and complain."""
    with suppress(OSError, ValueError):  # no file behind it
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress(label: str = "opening") -> Iterator[Progress]:
    """A bar on stderr that follows (label, done, total), where stderr is a terminal; a line for what takes long.

    The notes of an interrupt (what is kept) are printed.
    """
    columns = (
        *(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        ),
        *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
    )
    try:
        with Bar(*columns, console=notes, transient=True, disable=not sys.stderr.isatty()) as bar:
            bar.add_task(label, total=None, rate="")
            yield _Watched(bar)
    except KeyboardInterrupt as interrupt:
        for each in getattr(interrupt, "__notes__", ()):
            note(each)
        raise


class _Watched:
    """A job as its bar shows it: label, how many of how many, how many in a second, the time that is left.

    Where a part of it will take more than a minute, that is said once in a line of its own, terminal or not.
    """

    def __init__(self, bar: Bar):
        self._bar, self._task = bar, bar.task_ids[0]
        self._label, self._began, self._first, self._said = "", 0.0, 0, False

    def __call__(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if label != self._label or done < self._first:
            self._label, self._began, self._first, self._said = label, now, done, False
            self._bar.reset(self._task)
        past, made = now - self._began, done - self._first
        rate = "" if not made or not past else _rate(made / past)
        self._bar.update(self._task, description=label, completed=done, total=total, rate=rate)
        if not self._said and made and past >= _LOOK:
            self._said = True
            left = past / made * (total - done)
            if past + left > _LONG:
                note(f"{label}: about {round((past + left) / 60) or 1} min.")


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"
