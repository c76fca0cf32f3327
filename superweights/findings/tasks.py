"""What a model scores on tasks: the findings of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from superweights.record import Score, plain


@dataclass(frozen=True)
class TaskScores:
    """Task scores of a model as it is and, where edits were asked for, with them made."""

    conditions: dict[str, Any]
    """Tasks, limit, dtype, and what lm-evaluation-harness was told; None is its default."""
    edits: tuple[dict[str, Any], ...]
    """Each edit: `address`, and `factor` or `value`."""
    base: tuple[Score, ...]
    """Of the model as it is: one for each task and metric, under lm-evaluation-harness's names."""
    edited: tuple[Score, ...] | None = None
    """The same with the edits; None where there are none."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `edited` is left out where there is none."""
        told = {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}
        return {name: value for name, value in told.items() if value is not None}
