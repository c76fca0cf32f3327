"""The scores of a record: what there is to show where its command is not known here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superweights.tables.numbers import plain, with_error
from superweights.tables.page import Parts, table

if TYPE_CHECKING:
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """The command, the model, and each score with its unit."""
    yield f"[bold]{plain(record.command)}[/], {plain(str(record.inputs.get('name')))}"
    rows = table("score", "value", "unit", "n")
    for score in record.scores:
        rows.add_row(plain(score.name), with_error(score), plain(score.unit), str(score.n))
    yield rows
