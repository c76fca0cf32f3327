"""How `superweights lab` prints its tables."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from superweights.cli import console
from superweights.cli.printing import print_lines

_COLOURS = {"prevented": "green", "not prevented": "yellow", "inconclusive": "dim"}


def show(shown: Any, as_json: bool) -> None:
    """Tables for people, or lines of JSON: what a verb of the lab gives."""
    if as_json:
        print_lines(shown.lines)
        return
    for sheet in shown.sheets:
        if sheet.title:
            console.data.print(f"[bold]{console.plain(sheet.title)}[/]")
        if sheet.columns:
            _print(_table(sheet))
        if sheet.note:
            console.data.print(f"[dim]{console.plain(sheet.note)}[/]")


def _table(sheet: Any) -> Table:
    """Its second lines dim, verdicts in their colours."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, title in enumerate(sheet.columns):
        right = sheet.right is not None and number >= sheet.right
        table.add_column(title, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in sheet.rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(text: str) -> str:
    first, _, second = console.plain(text).partition("\n")
    first = f"[{_COLOURS[first]}]{first}[/]" if first in _COLOURS else first
    return f"{first}\n[dim]{second}[/]" if second else first


def _print(table: Table) -> None:
    """As wide as it needs where stdout is no terminal."""
    from rich.measure import Measurement

    if console.data.is_terminal:
        console.data.print(table)
        return
    needed = Measurement.get(console.data, console.data.options.update(max_width=10_000), table).maximum
    console.with_width(max(needed, console.data.width)).print(table)
