"""What rounding the inputs of linear layers does to a model: the findings of `activations`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from superweights.record import Score


@dataclass(frozen=True)
class RoundedRow:
    """The model with its inputs rounded in one way, beside the model as it is."""

    scale: str
    """What shares a scale: `token`, `tensor` or `static`."""
    way: str
    """What is done about large inputs, in words."""
    scheme: str
    """The whole scheme, as JSON that `quantization.ActivationScheme.from_json` reads."""
    held_share: float
    """The share of the inputs that was held out."""
    perplexity: Score
    """Of the model with rounded inputs."""
    loss: Score
    """How much the loss rises, paired window by window."""
    kl: Score
    """KL(as it is || rounded) of the next-token distributions."""
    agreement: Score
    """The share of positions where both put the same token first."""
    losses: tuple[float | None, ...]
    """The mean loss of each window, nats/token."""


@dataclass(frozen=True)
class InputPlace:
    """A scalar of a layer's input."""

    module: str
    """The linear layer whose input it is in."""
    channel: int
    """Its channel."""
    position: int | None = None
    """Its token; None: every one."""


@dataclass(frozen=True)
class HeldInput:
    """An input that was held out."""

    place: InputPlace
    """Where it is."""
    value: float
    """The largest value that it had."""
    share: float
    """In what share of the windows it was held out."""


@dataclass(frozen=True)
class RoundedLayer:
    """One layer that gains from holding out, and how much."""

    scale: str
    """The scheme's scale, as in the rows."""
    module: str
    """The linear layer."""
    scalars: int
    """How many inputs it was given."""
    held: int
    """How many of them were held out."""
    examples: tuple[HeldInput, ...]
    """The largest of those."""
    error_plain: float
    """The error of its product without holding out: norm of the error over norm of the product, mean over tokens."""
    error_held: float
    """The same with holding out."""
    share: float
    """`held` over `scalars`."""


@dataclass(frozen=True)
class Activations:
    """What a model scores as it is and with its inputs rounded in each way."""

    conditions: dict[str, Any]
    """On what it was measured and calibrated: texts, cut, BOS, dtype, device."""
    base: Score
    """The perplexity of the model as it is."""
    rows: tuple[RoundedRow, ...]
    """Each scale with each way."""
    layers: tuple[RoundedLayer, ...] = ()
    """The layers that gain most from holding out, where they were asked for."""
