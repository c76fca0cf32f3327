"""What a census has found: one noun for each model that was entered, and what was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from superweights.index import KnownWeight
from superweights.record import Score, plain


@dataclass(frozen=True)
class Entered:
    """One model of a census: searched, profiled, and its weights as lines of the index."""

    name: str
    """As the list has it."""
    revision: str | None
    """The commit that the name stood for; None for what is on this machine."""
    fingerprint: str
    """The checkpoint's."""
    model_type: str | None
    """What its config.json calls its architecture; None where there is no config."""
    parameters: int
    """Numbers in its file, each tensor once."""
    layers: int
    """Blocks, of all towers."""
    verdict: str
    """The search's: critical, joint, partial, undecided, benign or none."""
    loss: Score | None
    """Of the model as it is, on the text that it was searched on; None where it was no number."""
    peaks: tuple[float | None, ...]
    """The largest |value| of the residual stream after each block, in order; None where it was no number."""
    weights: tuple[KnownWeight, ...]
    """What was put to the proof, each as a line of the index."""
    profile: dict[str, Any] | None
    """The numbers of `superweights profile`; None where the model has none."""
    unprofiled: str | None
    """Why it has none, in a sentence."""
    notes: tuple[str, ...]
    """What the reader of the search should know."""

    @property
    def super_weights(self) -> tuple[KnownWeight, ...]:
        """The weights that matter: critical, joint or partial."""
        return tuple(weight for weight in self.weights if weight.verdict in ("critical", "joint", "partial"))

    @property
    def costliest(self) -> KnownWeight | None:
        """Of these the one without which the loss rises most; None where there is none."""
        return max(self.super_weights, key=loss_rise, default=None)

    @property
    def cost(self) -> float | None:
        """How much the loss rises without the costliest; None where there is none."""
        worst = self.costliest
        return None if worst is None else loss_rise(worst)

    def line(self) -> dict[str, Any]:
        """Its line of the data set's models: all but its weights, of which only the names."""
        held = plain(self)
        return {**held, "weights": [str(weight) for weight in self.super_weights]}


@dataclass(frozen=True)
class NotEntered:
    """A model of the list that could not be read, opened, searched or run."""

    name: str
    """As the list has it."""
    sentence: str
    """What was in the way."""
    hint: str
    """What to do about it."""


@dataclass(frozen=True)
class Duplicate:
    """A line of the list that stands for a model that an earlier line stands for."""

    name: str
    """As the list has it."""
    of: str
    """The earlier line: the same name, or a name with the same numbers behind it."""


@dataclass(frozen=True)
class Census:
    """All that a census found, in the order of its list."""

    conditions: dict[str, Any]
    """What was asked of every model."""
    models: tuple[Entered, ...]
    """Those that were entered."""
    failed: tuple[NotEntered, ...]
    """Those that were not, each with its sentence."""
    duplicates: tuple[Duplicate, ...]
    """Lines that were passed over."""

    @property
    def weights(self) -> tuple[KnownWeight, ...]:
        """The lines of the index that it gives."""
        return tuple(weight for model in self.models for weight in model.weights)


def loss_rise(weight: KnownWeight) -> float:
    """How much the loss rises without `weight`, in the unit of its model's loss; 0 where that was not measured."""
    return max((effect.value for effect in weight.evidence.effects), default=0.0)
