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


# By the first word of the command. What `superweights.findings` has a form for is read by that.
SCHEMAS: dict[str, type] = {"find": Found, "audit": Audited}
