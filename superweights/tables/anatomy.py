"""What `anatomy` found: each answer's sheets and scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from superweights.tables.numbers import bos_words, cut_words, plain
from superweights.tables.page import Parts, Table, dim
from superweights.tables.scores import parts as scores

if TYPE_CHECKING:
    from superweights.findings import Anatomy
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """Each answer's tables and scores, what was refused, the conditions; scores alone where an answer is not known."""
    found: Anatomy = record.findings
    known = [answer for answer in found.answers.values() if hasattr(answer, "sheets")]
    if len(known) < len(found.answers) or not (known or found.refused):
        yield from scores(record)  # an answer of no question that is known here
        return
    for answer in known:
        for sheet in answer.sheets():
            yield from _sheet(sheet)
        yield from (f"{plain(score.name)}: {plain(str(score))}" for score in answer.scores())
        yield ""
    for word, reason in found.refused.items():
        yield f"{plain(word)}: not answered. {plain(reason)}"
    held = found.conditions
    where = f"{cut_words(held['windows'], held['window'])} of {held['text']}, {bos_words(held)}"
    yield dim(plain(where))


def _sheet(sheet: Any) -> Parts:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = plain(sheet.title)
    for column in sheet.columns:
        table.add_column(plain(column), justify="right", no_wrap=True)
    for row in sheet.rows:
        table.add_row(*(plain(_cell(value)) for value in row))
    yield table
    if sheet.note:
        yield dim(plain(sheet.note))
    yield ""


def _cell(value: float | int | str | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int):
        return str(value)
    if not math.isfinite(value):
        return "-"
    return f"{value:z,.0f}" if abs(value) >= 1000 else f"{value:z.3g}"
