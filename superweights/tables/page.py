"""A page: lines and tables, printed so that no number and no address is cut or broken, at any width and in a pipe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.segment import Segments
from rich.table import Column, Table
from rich.text import Text

_UNBOUNDED = 10_000
# What stays on one line: a word, an address with its index, a number with its error; and a line with a command.
_WORD = re.compile(r"(?:\[[\d:]+(?:, [\d:]+)*\]|\S)+(?: ± ?\S+)?")
_COMMAND = re.compile(r"\bsuperweights [a-z]+ ")


@dataclass(frozen=True)
class Fitting:
    """One table in several forms: the first that fits is printed, else the last."""

    forms: Sequence[Table]
    """The same rows, with fewer columns from form to form."""


@dataclass(frozen=True)
class Folding:
    """A table of words, which may be folded inside their cells where a terminal is narrow."""

    table: Table
    """Its columns of numbers forbid folding themselves."""


@dataclass(frozen=True)
class Parted:
    """A table of many columns of numbers: where a terminal is narrow, several tables with the first column in each."""

    table: Table
    """Its first column names the rows."""


# A line (with rich's markup, or as a `Text` without), or a table.
Part = str | Text | Table | Fitting | Folding | Parted
Parts = Iterable[Part]


def table(*titles: str, right: bool = False) -> Table:
    """A plain table: the first column words (or numbers, set `right`), the others numbers."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    made.add_column(titles[0], no_wrap=True, justify="right" if right else "left")
    for title in titles[1:]:
        made.add_column(title, justify="right", no_wrap=True)
    return made


def ruled(*titles: str, header: str = "", words: Sequence[str] = ()) -> Table:
    """A table with a line below its titles: the first column and those in `words` are words, the others numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style=header)
    for number, title in enumerate(titles):
        made.add_column(title, justify="right" if number and title not in words else "left", no_wrap=True)
    return made


def dim(line: str) -> str:
    """A line of conditions: less bright than what was found. Its words are already plain."""
    return f"[dim]{line}[/]"


def print_page(parts: Parts, console: Console) -> None:
    """Print `parts` on `console`: lines broken between words only, and none that holds a command (it is to be copied);
    tables whole or, where a terminal is narrow, row below row."""
    for part in parts:
        if isinstance(part, Fitting):
            part = next((form for form in part.forms if _fits(form, console)), part.forms[-1])
        if isinstance(part, Folding):
            _print_folding(part.table, console)
        elif isinstance(part, Parted):
            for some in _parted(part.table, console):
                _print_wide(some, console, _needed(some, console))
        elif isinstance(part, Table):
            print_table(part, console)
        else:
            for line in _lines(part, console):
                console.print(line, soft_wrap=True)


def page_text(parts: Parts, width: int | None = None) -> str:
    """`parts` as plain text, `width` characters wide; None: as wide as they need."""
    written = StringIO()
    console = Console(
        file=written, width=width or _UNBOUNDED, color_system=None, force_jupyter=False, highlight=False,
        force_terminal=width is not None,
    )  # fmt: skip
    print_page(parts, console)
    return written.getvalue().rstrip("\n")


def print_table(made: Table, console: Console) -> None:
    """Print `made` with nothing cut or broken: as wide as it needs; where a terminal is narrower, row below row."""
    if made.title:
        console.print(made.title, style="italic", soft_wrap=True)
        made.title = None
    if _fits(made, console):
        _print_wide(made, console, max(1, _needed(made, console)))
        return
    for line in _stacked(made, console):
        console.print(line, soft_wrap=True)


def _print_folding(made: Table, console: Console) -> None:
    """Folded where a terminal is too narrow; whole where there is no terminal."""
    if console.is_terminal:
        console.print(made)
    else:
        _print_wide(made, console, max(_needed(made, console), console.width))


def _parted(made: Table, console: Console) -> Iterator[Table]:
    """`made` whole where it fits, else in tables of as many of its columns as fit beside the first."""
    first, *others = made.columns
    while others:
        count = len(others)
        while count > 1 and not _fits(_columns_of(made, [first, *others[:count]]), console):
            count -= 1
        yield _columns_of(made, [first, *others[:count]])
        others = others[count:]


def _columns_of(made: Table, columns: list[Column]) -> Table:
    """`made` with these of its columns only."""
    some = copy(made)
    some.columns = [replace(column, _index=number) for number, column in enumerate(columns)]
    return some


def _print_wide(made: Table, console: Console, width: int) -> None:
    """As if `console` were `width` characters wide: files and pipes have no width of their own."""
    lines = console.render(made, console.options.update(width=width))
    console.print(Segments(lines), soft_wrap=True)


def _is_bounded(console: Console) -> bool:
    """Whether `console` has a width: a terminal has one, a file or a pipe has none unless COLUMNS gives it one."""
    return console.is_terminal or "COLUMNS" in os.environ


def _fits(made: Table, console: Console) -> bool:
    """Whether `console` has room for `made` with nothing cut: a file or a pipe has room for all."""
    return not _is_bounded(console) or _needed(made, console) <= console.width


def _needed(made: Table, console: Console) -> int:
    """The width at which no cell of `made` is cut or wrapped."""
    return Measurement.get(console, console.options.update(max_width=_UNBOUNDED), made).maximum


def _stacked(made: Table, console: Console) -> Iterator[Text]:
    """The rows of `made`, each in lines of its own: the first cell, then the others behind their titles."""
    cells = ([column.header, *column.cells] for column in made.columns)
    heads, *columns = [[_text(cell, console) for cell in column] for column in cells]
    for row in range(1, len(heads)):
        first = heads[row]
        if made.columns[0].justify == "right":  # a bare number says nothing
            first = Text(" ").join([heads[0], first])
        yield first
        pairs = [
            Text(" ").join([Text(column[0].plain, style="dim"), column[row]])
            for column in columns
            if column[row]
        ]
        yield from _filled(pairs, console.width)


def _filled(pairs: list[Text], width: int) -> Iterator[Text]:
    """Lines of as many whole `pairs` as fit into `width`."""
    line: list[Text] = []
    for pair in pairs:
        if line and sum(len(each) + 2 for each in line) + 4 + len(pair) > width:
            yield Text("    ") + Text("  ").join(line)
            line = []
        line.append(pair)
    if line:
        yield Text("    ") + Text("  ").join(line)


def _lines(part: str | Text, console: Console) -> Iterator[Text]:
    """`part` in lines that a terminal need not break; as it is where there is no terminal."""
    for line in (console.render_str(part) if isinstance(part, str) else part).split("\n", allow_blank=True):
        if not _is_bounded(console) or len(line) <= console.width or _COMMAND.search(line.plain):
            yield line
            continue
        ends, start = [], 0
        for word in _WORD.finditer(line.plain):
            if word.end() - start > console.width and word.start() > start:
                ends.append(word.start())
                start = word.start()
        for each in line.divide(ends):
            each.rstrip()
            yield each


def _text(cell: Any, console: Console) -> Text:
    """A cell as it is shown, in one line."""
    shown = console.render_str(cell) if isinstance(cell, str) else cell
    return Text(" ").join(shown.split("\n"))
