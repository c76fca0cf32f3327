"""What each verb finds, as dataclasses: the `findings` of a `Record`, which reports and notebooks read. Needs no torch.

>>> from superweights.record import Record
>>> typed(Record("score", {"name": "m"}, {}, findings=Effects({}, Side(None)))).findings.rows
()
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from superweights.artefacts.shape import shaped
from superweights.findings.activations import (
    Activations,
    HeldInput,
    InputPlace,
    RoundedLayer,
    RoundedRow,
)
from superweights.findings.anatomy import Anatomy
from superweights.findings.census import Census, Duplicate, Entered, NotEntered
from superweights.findings.effects import (
    Continuation,
    EditMade,
    EffectRow,
    Effects,
    LastWordsRow,
    Side,
    TokenChange,
    TokenShift,
)
from superweights.findings.facts import Facts
from superweights.findings.protection import (
    Alternative,
    Carrier,
    DropTold,
    Planned,
    PlannedMatrix,
    Protected,
    Pruned,
    Quantized,
)
from superweights.findings.reproduction import Column, Plot, Published, Reproduction
from superweights.findings.scan import Scan, Skipped, Spectrum, SuperNeuron, Suspect, TensorOutliers
from superweights.findings.tasks import TaskScores
from superweights.findings.tour import Tour, TourPart
from superweights.record import Record, Score

__all__ = [
    "FORMS",
    "Activations",
    "Alternative",
    "Anatomy",
    "Carrier",
    "Census",
    "Column",
    "Continuation",
    "DropTold",
    "Duplicate",
    "EditMade",
    "EffectRow",
    "Effects",
    "Entered",
    "Facts",
    "HeldInput",
    "InputPlace",
    "LastWordsRow",
    "NotEntered",
    "Planned",
    "PlannedMatrix",
    "Plot",
    "Protected",
    "Pruned",
    "Published",
    "Quantized",
    "Reproduction",
    "RoundedLayer",
    "RoundedRow",
    "Scan",
    "Side",
    "Skipped",
    "Spectrum",
    "SuperNeuron",
    "Suspect",
    "TaskScores",
    "TensorOutliers",
    "TokenChange",
    "TokenShift",
    "Tour",
    "TourPart",
    "typed",
]

# What the findings of a record are, by the first word of its command.
FORMS: dict[str, Any] = {
    "score": Effects,
    "ablate": Effects,
    "scale": Effects,
    "activations": Activations,
    "anatomy": Anatomy,
    "census": Census,
    "evaluate": TaskScores,
    "facts": Facts,
    "scan": Scan,
    "quantize": Quantized,
    "plan": Planned,
    "prune": Pruned,
    "reproduce": Reproduction,
    "tour": Tour,
}


def typed(record: Record, where: str = "The record") -> Record:
    """`record` with its findings as a dataclass, where their command has one and they are still JSON values.

    `where` names it in the `SuperweightsError` that is raised for findings of another shape. A score without a value
    was no number (infinite, or none at all), which JSON has no word for: it is nan again.
    """
    form = FORMS.get(record.command.split(" ")[0])
    if form is None or is_dataclass(record.findings):
        return record
    hint = "run its command again with this version."
    return replace(record, findings=shaped(form, _revived(record.findings, where, hint), where, hint, "some"))


_OF_A_SCORE = {each.name for each in fields(Score)}


def _revived(value: Any, where: str, hint: str) -> Any:
    """JSON values with the scores among them as scores, wherever they stand: in a cell of a table as well."""
    if isinstance(value, dict):
        if value.keys() == _OF_A_SCORE:
            return shaped(Score, value, where, hint, "lossy")
        return {key: _revived(item, where, hint) for key, item in value.items()}
    return [_revived(item, where, hint) for item in value] if isinstance(value, list) else value
