"""A progress bar for any long job of this package: what its `progress=` takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from superweights.progress import Progress
from superweights.tables.numbers import plain
from superweights.tables.page import print_page

# After so many seconds it is told how long a part of a job will take, if that is longer than so many.
_LOOK, _LONG = 5.0, 60.0


@contextmanager
def progress_bar(label: str = "opening", console: Console | None = None) -> Iterator[Progress]:
    """A bar on stderr that follows (label, done, total), in a terminal or a notebook; a line for what takes long.

    The notes of an interrupt (what is kept) are printed. `console`: rich's, in place of one on stderr.

        with progress_bar() as bar:
            find("embedded", progress=bar)
    """
    console = console or Console(stderr=True, highlight=False)
    columns = (
        *(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        ),
        *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
    )
    watched = sys.stderr.isatty() or console.is_jupyter
    try:
        with Bar(*columns, console=console, transient=True, disable=not watched) as bar:
            bar.add_task(label, total=None, rate="")
            yield _Watched(bar)
    except KeyboardInterrupt as interrupt:
        print_page([plain(note) for note in getattr(interrupt, "__notes__", ())], console)
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
                about = f"{label}: about {round((past + left) / 60) or 1} min."
                print_page([plain(about)], self._bar.console)


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"
