"""What quantizing, planning, auditing and pruning find: the findings of `quantize`, `plan`, `audit` and `prune`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from superweights.record import Score, plain


@dataclass(frozen=True)
class Protected:
    """A weight that was kept exactly, and what rounding would have done to it."""

    address: str
    """`TENSOR[i, j]`."""
    index: tuple[int, ...]
    """The index alone."""
    before: float
    """The weight."""
    plain: float
    """What it would be, were it rounded like any other."""
    after: float
    """What the written checkpoint holds."""
    plain_steps: float | None
    """The error of plain rounding in steps of the grid; None where the grid has no even steps."""
    storage_steps: float
    """How much of that the rounding of the stored scale can explain."""
    step_plain: float
    """The step of its block with the weight in it."""
    step_after: float
    """And with the weight held out: smaller where the weight alone made the range."""
    neighbours_plain: float
    """Error of the other weights of its block (root mean square) with the weight in it."""
    neighbours_after: float
    """And with it held out."""
    changed: bool
    """Whether keeping it changes anything."""
    said: str
    """All this in words, without the tensor's name."""


@dataclass(frozen=True)
class Quantized:
    """What `quantize` wrote."""

    format: str
    """packed, dense, compressed-tensors or gguf."""
    to: str
    """The folder or file."""
    schemes: tuple[str, ...]
    """The schemes that were used, in words."""
    tensors_rounded: int
    """How many matrices were rounded."""
    protected: tuple[Protected, ...]
    """The weights that were kept exactly."""
    bytes_before: int | None = None
    """Of the original's tensors as they are stored; None in records of old."""
    bytes_after: int | None = None
    """Of the weight files that were written."""
    kept_whole: tuple[str, ...] = ()
    """Matrices that were not rounded, since the format has no place for a single weight beside one."""
    embeddings: str | None = None
    """How embeddings and head are stored, in words."""
    kl: Score | None = None
    """KL(original || written) of the next-token distributions; None where it was not measured."""
    kl_plain: Score | None = None
    """The same with every matrix rounded and nothing kept; None where nothing is kept."""
    notes: tuple[str, ...] = ()
    """What the reader should know."""
    calibrated_on: str | None = None
    """The text that the rounding was fitted to, in words; None where it looked at weights alone."""


@dataclass(frozen=True)
class PlannedMatrix:
    """One matrix of a plan."""

    tensor: str
    """Its name in the checkpoint."""
    measured_kl: float
    """KL(as it is || rounded) in nats/token when this matrix alone is rounded by the measured scheme."""
    scheme: str
    """The scheme that it gets, in words."""
    grid: str
    """That scheme's grid."""
    bits_per_weight: float
    """What it then takes, scales included."""
    super_weights: tuple[str, ...]
    """Its weights that are kept exactly."""


@dataclass(frozen=True)
class Alternative:
    """One scheme for all matrices, next to the plan's size: its KL on the windows that check the plan."""

    scheme: str
    """The scheme, in words."""
    bits_per_weight: float
    """What it takes, scales included."""
    name: str
    """Of the score."""
    value: float
    """KL(as it is || rounded)."""
    unit: str
    """nats/token."""
    n: int
    """Windows."""
    standard_error: float | None
    """Over windows."""


@dataclass(frozen=True)
class Planned:
    """A bit budget spent by sensitivity, and what it gives on windows that chose nothing."""

    bits_per_weight: float
    """What the plan takes, scales included."""
    expected_kl: float
    """The sum of what each matrix was measured to cost, nats/token."""
    frontier: tuple[tuple[float, float], ...]
    """Bits per weight and expected KL of every plan on the way."""
    uniform: tuple[Alternative, ...]
    """The single schemes next to its size."""
    matrices: tuple[PlannedMatrix, ...]
    """Each matrix and the scheme that it gets."""
    notes: tuple[str, ...] = ()
    """What the reader should know."""


@dataclass(frozen=True)
class DropTold:
    """What dropping some sub-layers costs on windows that did not choose them."""

    dropped: str
    """Which, in words."""
    perplexity: Score
    """Without them."""
    loss_change: Score
    """How much the loss rises."""


@dataclass(frozen=True)
class Carrier:
    """A sub-layer that carries something, and is left in unless one asks for it."""

    kind: str
    """attention or mlp."""
    layer: int
    """Its block."""
    reason: str
    """What it carries."""
    dropped: bool
    """Whether it went all the same."""


@dataclass(frozen=True)
class Pruned:
    """What `prune` dropped, chosen on half of the windows, and what that costs on the other half."""

    what: str
    """attention, mlp, block, joint or run."""
    dropped: dict[str, tuple[int, ...]]
    """The layers, by kind of sub-layer."""
    similarities: tuple[dict[str, Any], ...]
    """How little each sub-layer changes the residual stream, layer by layer."""
    carriers: tuple[Carrier, ...]
    """Sub-layers with super weights or massive activations."""
    effect: DropTold
    """What it costs."""
    controls: tuple[DropTold, ...]
    """What as many drawn at random cost."""
    written: dict[str, Any] | None = None
    """The folder that was written; None where none was asked for."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; without `written` where nothing was."""
        told = {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}
        return {name: value for name, value in told.items() if name != "written" or value is not None}
