"""What a sweep has found: the scores of each point, beside the model as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from superweights.jobs.store import Entry
from superweights.record import Score
from superweights.scoring import loss_change, perplexity_of
from superweights.scoring.error import mean_error
from superweights.sweeps.plans import BASE, Point
from superweights.sweeps.setup import Setup

# More edits than this are not spelled out in a line that is read by people or pipes; the store has them.
_MANY = 64


@dataclass(frozen=True)
class Outcome:
    """One point with its scores; `status` is done, failed (then `sentence` and `hint` say why) or open.

    `loss` is the rise of the loss over the model as it is, in nats per token, paired window by window.
    `beyond_sum` is that rise less the rises of the point's edits made one at a time: above zero they back
    each other up (masking, synergy), below it they share what they do. None where those were not measured.
    """

    model: str
    """The model's name."""
    fingerprint: str
    """The checkpoint's fingerprint."""
    key: str
    """The hash of its cell."""
    point: Point
    """Its place in the grid."""
    status: str
    perplexity: Score | None = None
    """Of the edited model."""
    loss: Score | None = None
    kl: Score | None = None
    """KL(base || edited), nats per token; None where it was not asked for."""
    agreement: Score | None = None
    """The share of positions where both put the same token first; None where it was not asked for."""
    beyond_sum: Score | None = None
    sentence: str | None = None
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; edits as on the command line, but only their number where they are very many."""
        data, edits = asdict(replace(self, point=BASE)), self.point.edits
        del data["point"]
        place = {
            "grid": self.point.grid,
            "series": self.point.series,
            "x": self.point.x,
            "n_edits": len(edits),
        }
        return {**place, "edits": [*map(str, edits)] if len(edits) <= _MANY else None, **data}


def outcomes_of(setup: Setup, entries: Mapping[str, Entry]) -> list[Outcome]:
    """The outcome of each point of `setup`, in its order, as far as `entries` (by key) have it."""
    losses = {
        entry.payload.edits: torch.tensor(entry.result.losses, dtype=torch.float64)
        for entry in entries.values()
        if entry.result is not None
    }
    return [
        _outcome(setup, point, cell.key, entries.get(cell.key), losses)
        for point, cell in zip(setup.points, setup.cells, strict=True)
    ]


def _outcome(setup: Setup, point: Point, key: str, entry: Entry | None, losses: dict[Any, Tensor]) -> Outcome:
    about = (setup.task.name, setup.task.fingerprint, key, point)
    if entry is None or entry.result is None:
        status, said = (entry.status, (entry.sentence, entry.hint)) if entry else ("open", (None, None))
        return Outcome(*about, status, sentence=said[0], hint=said[1])
    numbers, cell = entry.result, entry.payload
    here, base = losses[cell.edits], losses.get(())
    compared = base is not None and cell.edits != ()
    return Outcome(
        *about,
        "done",
        perplexity=perplexity_of(here, seed=cell.seed),
        loss=loss_change(base, here) if base is not None and compared else None,
        kl=_mean("KL(base || edited)", numbers.kl, "nats/token", cell.scores, "kl"),
        agreement=_mean("top-1 agreement", numbers.agreement, "of positions", cell.scores, "agreement"),
        beyond_sum=_beyond_sum(cell.edits, losses) if compared else None,
    )


def _beyond_sum(edits: Sequence[Any], losses: dict[Any, Tensor]) -> Score | None:
    """Joint rise less the sum of the single ones, paired window by window; None where one is not known."""
    singles = [losses.get((edit,)) for edit in edits]
    if len(edits) < 2 or any(single is None for single in singles):
        return None
    base = losses[()]
    change = losses[tuple(edits)] - base - sum(single - base for single in singles if single is not None)
    return Score("joint minus sum", change.mean().item(), "nats/token", len(change), mean_error(change))


def _mean(
    name: str, per_window: Sequence[float] | None, unit: str, asked: Sequence[str], score: str
) -> Score | None:
    if per_window is None or score not in asked:
        return None
    values = torch.tensor(per_window, dtype=torch.float64)
    return Score(name, values.mean().item(), unit, len(values), mean_error(values))
