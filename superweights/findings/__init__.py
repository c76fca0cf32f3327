"""What each verb finds, as dataclasses: the `findings` of a `Record`, which reports and notebooks read. Needs no torch.

>>> from superweights.record import Record
>>> typed(Record("score", {"name": "m"}, {}, findings=Effects({}, Side(None)))).findings.rows
()
"""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

from superweights.artefacts.shape import shaped
from superweights.findings.effects import (
    Continuation,
    EffectRow,
    Effects,
    LastWordsRow,
    Side,
    TokenChange,
    TokenShift,
)
from superweights.record import Record

__all__ = [
    "FORMS",
    "Continuation",
    "EffectRow",
    "Effects",
    "LastWordsRow",
    "Side",
    "TokenChange",
    "TokenShift",
    "typed",
]

# What the findings of a record are, by the first word of its command.
FORMS: dict[str, Any] = {"score": Effects, "ablate": Effects, "scale": Effects}


def typed(record: Record, where: str = "the record") -> Record:
    """`record` with its findings as a dataclass, where their command has one and they are still JSON values.

    `where` names it in the `SuperweightsError` that is raised for findings of another shape.
    """
    form = FORMS.get(record.command.split(" ")[0])
    if form is None or is_dataclass(record.findings):
        return record
    hint = "run its command again with this version."
    return replace(record, findings=shaped(form, record.findings, where, hint, extra=True))
