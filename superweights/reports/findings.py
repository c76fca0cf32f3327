"""What a report reads of the findings that have no form of their own: checked once, when a record is read.

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
    """The number; None where it was none."""
    standard_error: float | None = None
    """None where no error is known."""


@dataclass(frozen=True)
class Candidate:
    """A candidate of `superweights find`. Its controls are read by `Control.from_json`."""

    address: str
    """The weight's."""
    value: float | None
    """The weight."""
    layer: Layer | None = None
    """Where it acts, counted from 0."""
    out_channel: Count | None = None
    """The channel that it writes."""
    effect: Value | None = None
    """The loss rise without it."""
    effect_with_others: Value | None = None
    """The same with the strongest gone already."""
    spike_in: float | None = None
    """Input of its product."""
    spike_out: float | None = None
    """Output of its product."""
    dominance: float | None = None
    """The share of that output that it makes."""
    verdict: str | None = None
    """As in `record.SuperWeight`."""
    role: str | None = None
    """writes or erases."""


@dataclass(frozen=True)
class Peak:
    """The largest value of the residual stream after a layer."""

    layer: Layer
    channel: Count
    """Where it stands."""
    peak: float
    """Its magnitude."""
    ratio: float | None = None
    """Over the median."""
    phase: str | None = None
    """step_up, plateau, step_down or calm."""


@dataclass(frozen=True)
class Found:
    """Findings of `superweights find`."""

    candidates: tuple[Candidate, ...] = ()
    """What spiked."""
    verdict: str | None = None
    """The gravest of theirs."""
    joint: Value | None = None
    """The loss rise without all in `removed`."""
    removed: tuple[Any, ...] = ()
    """The strongest."""
    notes: tuple[str, ...] = ()
    """What the reader should know."""
    layers: tuple[Peak, ...] = ()
    """One for each layer."""


@dataclass(frozen=True)
class Fate:
    """What became of a super weight."""

    address: str
    """The weight's."""
    before: float | None
    """In the original."""
    after: float | None
    """In the quantized checkpoint."""
    matrix_error: float | None
    """Of the whole matrix, over its norm."""
    verdict: str
    """intact, bent or broken."""
    steps: float | None = None
    """Its error in steps of the grid."""


@dataclass(frozen=True)
class Compared:
    """The model's predictions before and after."""

    base: Value | None = None
    """Perplexity of the original."""
    other: Value | None = None
    """Perplexity of the quantized one."""
    kl: Value | None = None
    """Divergence, nats per token."""


@dataclass(frozen=True)
class Audited:
    """Findings of `superweights audit`."""

    verdict: str
    """intact, bent or broken."""
    method: str | None = None
    """How it is quantized."""
    weights: tuple[Fate, ...] = ()
    """What became of each super weight."""
    comparison: Compared | None = None
    """Predictions of both."""
    layer: Layer | None = None
    """Where the super activation stands."""
    channel: Count | None = None
    """In which channel."""
    activation_before: float | None = None
    """That of the original."""
    activation_after: float | None = None
    """That of the quantized one."""
    sink_before: Value | None = None
    """Attention on the first token, original."""
    sink_after: Value | None = None
    """The same, quantized."""


# By the first word of the command. What `superweights.findings` has a form for is read by that.
SCHEMAS: dict[str, type] = {"find": Found, "audit": Audited}
