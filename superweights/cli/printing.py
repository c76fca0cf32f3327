"""How results are shown: a line of JSON for programs, tables for people, a file where one is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superweights.cli import console

if TYPE_CHECKING:
    from rich.table import Table

    from superweights.record import Record, Score


def finish(record: Record, as_json: bool, out: Path | None, show: Callable[[Record], None]) -> None:
    """Write the record to `out` if asked, and print it: as a line of JSON, or as `show` prints it for people."""
    if out is not None:
        console.write_out(out, record.to_json() + "\n")
    if as_json:
        console.print_line(record.to_json())
    else:
        show(record)


def table(*titles: str) -> Table:
    """A plain table: the first column words, the others numbers."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    made.add_column(titles[0], no_wrap=True)
    for title in titles[1:]:
        made.add_column(title, justify="right", no_wrap=True)
    return made


def with_error(score: Score | None, sign: str = "") -> str:
    """A number with its error to two digits, and as many decimals (4 at most) as the error gives meaning to."""
    if score is None:
        return ""
    value, error = score.value, score.standard_error
    if error is None or not 0 < error < math.inf:
        return f"{value:{sign}.4g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 4:
        return f"{value:{sign}.2g} ±{error:.2g}"
    return f"{value:{sign},.{decimals}f} ±{error:,.{decimals}f}"


def value(score: Score | None) -> str:
    """The number alone."""
    return "" if score is None else f"{score.value:.4g}"


def percent(score: Score) -> str:
    """A share with its error, in percent."""
    error = score.standard_error
    return f"{score.value:.1%}" + ("" if error is None else f" ±{100 * error:.1f}")


def bos_words(conditions: dict[str, Any]) -> str:
    """Whether windows began with BOS, for the sentence below a table."""
    return "with BOS" if conditions.get("bos") else "without BOS"
