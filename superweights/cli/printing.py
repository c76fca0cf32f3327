"""How results are shown: a line of JSON for programs, tables for people, a file where one is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.text import Text

from superweights.cli import console
from superweights.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from superweights.record import Record, Score


def finish(
    record: Record,
    as_json: bool,
    out: Path | None,
    show: Callable[[Record], None],
    lines: Callable[[Record], Iterable[Any]] | None = None,
) -> None:
    """Write the record to `out` if asked, and print it: as a line of JSON, or as `show` prints it for people.

    `lines` gives what is printed as JSON, a line each, where that is not the record itself.
    """
    if out is not None:
        console.write_out(out, record.to_json() + "\n")
    if as_json:
        print_lines([record] if lines is None else lines(record))
    else:
        show(record)


def print_lines(rows: Iterable[Any]) -> None:
    """Each of `rows` as a line of JSON."""
    from superweights.record import Record, to_json_line

    for row in rows:
        console.print_line(row.to_json() if isinstance(row, Record) else to_json_line(row))


def table(*titles: str, right: bool = False) -> Table:
    """A plain table: the first column words (or numbers, set `right`), the others numbers."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    made.add_column(titles[0], no_wrap=True, justify="right" if right else "left")
    for title in titles[1:]:
        made.add_column(title, justify="right", no_wrap=True)
    return made


def print_table(made: Table) -> None:
    """Print `made` with nothing cut or broken: as wide as it needs; where a terminal is narrower, row below row."""
    if made.title:
        console.data.print(made.title, style="italic", soft_wrap=True)
        made.title = None
    needed = _needed(made)
    if needed <= console.data.width or not _is_bounded():
        console.with_width(max(1, needed)).print(made)
        return
    for line in _stacked(made, console.data.width):
        console.data.print(line, soft_wrap=True)


def _is_bounded() -> bool:
    """Whether stdout has a width: a terminal has one, a file or a pipe has none unless COLUMNS gives it one."""
    return console.data.is_terminal or "COLUMNS" in os.environ


def fits(made: Table) -> bool:
    """Whether stdout has room for `made` with nothing cut: a file or a pipe has room for all."""
    return not _is_bounded() or _needed(made) <= console.data.width


def _needed(made: Table) -> int:
    """The width at which no cell of `made` is cut or wrapped."""
    from rich.measure import Measurement

    return Measurement.get(console.data, console.data.options.update(max_width=10_000), made).maximum


def _stacked(made: Table, width: int) -> Iterator[Text]:
    """The rows of `made`, each in lines of its own: the first cell, then the others behind their titles."""
    heads, *columns = [[_text(column.header), *map(_text, column.cells)] for column in made.columns]
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
        yield from _filled(pairs, width)


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


def _text(cell: Any) -> Text:
    """A cell as it is shown, in one line."""
    shown = console.data.render_str(cell) if isinstance(cell, str) else cell
    return Text(" ").join(shown.split("\n"))


class Measured(Protocol):
    """A number that was measured: a `Score`, or an effect that somebody published."""

    @property
    def value(self) -> float: ...

    @property
    def standard_error(self) -> float | None: ...


def with_error(score: Measured | None, sign: str = "", digits: int = 4) -> str:
    """A number with its error to two digits, and as many decimals (4 at most) as the error gives meaning to.

    `digits` are those of a number without an error.
    """
    if score is None:
        return ""
    value, error = score.value, score.standard_error
    if error is None or not 0 < error < math.inf:
        return f"{value:{sign}.{digits}g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 4:
        return f"{value:{sign}.2g} ±{error:.2g}"
    return f"{value:{sign},.{decimals}f} ±{error:,.{decimals}f}"


def value(score: Score | None) -> str:
    """The number alone."""
    return "" if score is None else f"{score.value:.4g}"


def measured(score: Score | None) -> str:
    """A number with its error: a share in percent, anything else to the digits that its error gives meaning to."""
    if score is not None and score.unit.startswith("of "):
        return percent(score)
    return with_error(score)


def share(value: float) -> str:
    """A share, in percent."""
    return f"{value:.1%}"


def percent(score: Score) -> str:
    """A share with its error, in percent."""
    error = score.standard_error
    return share(score.value) + ("" if error is None else f" ±{100 * error:.1f}")


def cut_words(windows: int, length: int) -> str:
    """How a text was cut, for the sentence below a table."""
    return f"{counted(windows, 'window')} of {counted(length, 'token')}"


def bos_words(conditions: dict[str, Any]) -> str:
    """Whether windows began with BOS, for the sentence below a table."""
    return "with BOS" if conditions.get("bos") else "without BOS"
