"""What `evaluate` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from superweights.tables.numbers import measured, plain
from superweights.tables.page import Parts, dim, table

if TYPE_CHECKING:
    from superweights.findings import TaskScores
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """One row for each task and metric; the edits and the conditions below."""
    found: TaskScores = record.findings
    columns = [found.base, *([] if found.edited is None else [found.edited])]
    rows = table("task/metric", "items", "as it is", *(["edited"] if found.edited is not None else []))
    for row in zip(*columns, strict=True):
        rows.add_row(plain(row[0].name), str(row[0].n), *map(measured, row))
    yield rows
    yield from (dim(plain(_edit(edit))) for edit in found.edits)
    how = f"lm-evaluation-harness {record.versions['lm_eval']}, {found.conditions['dtype']}"
    yield dim(f"{how}; standard errors over items.")


def _edit(edit: dict[str, Any]) -> str:
    change = f"= {edit['factor']:g} times" if "factor" in edit else f":= {edit['value']:g}"
    return f"edited: {edit['address']} {change}"
