"""What `profile` found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superweights.tables.page import Parts, ruled

if TYPE_CHECKING:
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """Every number under its exact name."""
    table = ruled("number", "value", header="bold")
    for name, value in record.findings.to_json().items():
        several = value.items() if isinstance(value, dict) else [(None, value)]
        for part, number in several:
            shown = "" if number is None else f"{number:z.4g}" if isinstance(number, float) else str(number)
            table.add_row(f"{name}, {part}" if part else name, shown)
    yield table
