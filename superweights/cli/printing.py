"""How results are shown: a line of JSON for programs, tables for people, a file where one is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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


def open_width(made: Table) -> int:
    """The width to print `made` in: a terminal's own, and as much as it needs where nobody wraps lines."""
    from rich.measure import Measurement

    if console.data.is_terminal or "COLUMNS" in os.environ:
        return console.data.width
    unlimited = console.data.options.update(max_width=10_000)
    return Measurement.get(console.data, unlimited, made).maximum


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
