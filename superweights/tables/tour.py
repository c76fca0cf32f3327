"""The tour, part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superweights.tables.numbers import plain
from superweights.tables.page import Parts

if TYPE_CHECKING:
    from superweights.findings import TourPart
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """All of it."""
    for part in record.findings.parts:
        yield from one_part(part)


def one_part(part: TourPart) -> Parts:
    """One part: its title, what is said and drawn, and an empty line."""
    yield f"[bold]{plain(part.title)}[/]"
    yield from (f"  {plain(line)}" for line in part.lines)
    yield ""
