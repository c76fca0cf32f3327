"""The sheets of the lab's verbs: suites, runs, comparisons."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from superweights.tables.numbers import plain
from superweights.tables.page import Folding, Parted, Parts, dim

_COLOURS = {"prevented": "green", "not prevented": "yellow", "inconclusive": "dim"}


def parts(shown: Any) -> Parts:
    """Each sheet: its title, its table, its note."""
    for sheet in shown.sheets:
        if sheet.title:
            yield f"[bold]{plain(sheet.title)}[/]"
        if sheet.columns:
            yield (Folding if sheet.right is None else Parted)(_table(sheet))
        if sheet.note:
            yield dim(plain(sheet.note))


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
    first, _, second = plain(text).partition("\n")
    first = f"[{_COLOURS[first]}]{first}[/]" if first in _COLOURS else first
    return f"{first}\n[dim]{second}[/]" if second else first
