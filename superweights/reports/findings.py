"""What a report reads of each command's findings, and of which type: checked once, when a record is read.

Fields that a report does not read are passed over; those that it reads and that a record lacks count as empty. A
number that was none (nan, infinity) when it was measured is null in a record, and None here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from superweights.artefacts.shape import Count, Layer


@dataclass(frozen=True)
class Value:
    """A score, as far as it is drawn."""

    value: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A candidate of `superweights find`. Its controls are read by `Control.from_json`."""

    address: str
    value: float | None
    layer: Layer | None = None
    out_channel: Count | None = None
    effect: Value | None = None
    effect_with_others: Value | None = None
    spike_in: float | None = None
    spike_out: float | None = None
    dominance: float | None = None
    verdict: str | None = None
    role: str | None = None


@dataclass(frozen=True)
class Peak:
    """The largest value of the residual stream after a layer."""

    layer: Layer
    channel: Count
    peak: float
    ratio: float | None = None
    phase: str | None = None


@dataclass(frozen=True)
class Found:
    """Findings of `superweights find`."""

    candidates: tuple[Candidate, ...] = ()
    verdict: str | None = None
    joint: Value | None = None
    removed: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()
    layers: tuple[Peak, ...] = ()


@dataclass(frozen=True)
class OneEdit:
    """An edit of a row."""

    address: str
    factor: float | None = None


@dataclass(frozen=True)
class Row:
    """What one set of edits costs."""

    name: str = ""
    edits: tuple[OneEdit, ...] = ()
    perplexity: Value | None = None
    loss: Value | None = None
    kl: Value | None = None
    agreement: Value | None = None
    bits_per_byte: Value | None = None


@dataclass(frozen=True)
class Continuation:
    """One prompt's two texts."""

    prompt: str
    base: str
    other: str
    name: str = ""


@dataclass(frozen=True)
class Token:
    """A token's probability before and after."""

    text: str
    base: float | None
    other: float | None
    ratio: float | None = None


@dataclass(frozen=True)
class Shift:
    """Where the probability goes."""

    name: str | None = None
    prompts: Count | None = None
    gained: tuple[Token, ...] | None = None
    lost: tuple[Token, ...] | None = None
    leading: tuple[Token, ...] | None = None


@dataclass(frozen=True)
class Measured:
    """Findings of `superweights score`, `ablate` and `scale`."""

    base: Row | None = None
    rows: tuple[Row, ...] | None = None
    conditions: dict[str, Any] | None = None
    continuations: tuple[Continuation, ...] | None = None
    shift: tuple[Shift, ...] | None = None


@dataclass(frozen=True)
class Matrix:
    """A matrix of a plan."""

    tensor: str
    measured_kl: float
    grid: str
    bits_per_weight: float
    super_weights: tuple[str, ...]


@dataclass(frozen=True)
class Planned:
    """Findings of `superweights plan`."""

    frontier: tuple[tuple[float, float], ...] = ()
    matrices: tuple[Matrix, ...] = ()


@dataclass(frozen=True)
class Protected:
    """A weight that was kept exactly."""

    address: str
    before: float | None
    said: str


@dataclass(frozen=True)
class Rounded:
    """Findings of `superweights quantize`."""

    format: str | None = None
    schemes: tuple[str, ...] = ()
    protected: tuple[Protected, ...] = ()


@dataclass(frozen=True)
class Fate:
    """What became of a super weight."""

    address: str
    before: float | None
    after: float | None
    matrix_error: float | None
    verdict: str
    steps: float | None = None


@dataclass(frozen=True)
class Compared:
    """The model's predictions before and after."""

    base: Value | None = None
    other: Value | None = None
    kl: Value | None = None


@dataclass(frozen=True)
class Audited:
    """Findings of `superweights audit`."""

    verdict: str
    method: str | None = None
    weights: tuple[Fate, ...] = ()
    comparison: Compared | None = None
    layer: Layer | None = None
    channel: Count | None = None
    activation_before: float | None = None
    activation_after: float | None = None
    sink_before: Value | None = None
    sink_after: Value | None = None


@dataclass(frozen=True)
class Activated:
    """Findings of `superweights activations`; the columns are whatever the rows have."""

    rows: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True)
class Answered:
    """Findings of `superweights anatomy`: an answer is drawn where it has numbers over layers."""

    answers: dict[str, Any] | None = None


# By the first word of the command.
SCHEMAS: dict[str, type] = {
    "find": Found,
    **dict.fromkeys(("score", "ablate", "scale"), Measured),
    "plan": Planned,
    "quantize": Rounded,
    "audit": Audited,
    "activations": Activated,
    "anatomy": Answered,
}
