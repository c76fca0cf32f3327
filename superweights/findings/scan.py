"""What the weights of a checkpoint show without a forward pass: the findings of `scan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from superweights.address import Address

CAVEAT = (
    "Structure does not prove importance: over 22 models the concentration of a row and the damage of removing "
    "it were unrelated (rank correlation 0.074, 95 % interval -0.39 to 0.51). Prove a suspect with "
    "`superweights find`."
)


@dataclass(frozen=True)
class Spectrum:
    """The exact bilinear form of one row: its Frobenius norm and how much of it one direction holds."""

    norm: float
    """The Frobenius norm."""
    concentration: float | None
    """The largest squared singular value over their sum (1: rank one); None for ungated blocks (a vector)."""
    participation: float | None
    """The square of that sum over the sum of fourth powers (1: rank one; the hidden size: all equal); None as above."""


@dataclass(frozen=True)
class Suspect:
    """A row that stands out from its layer, and the entry that carries it."""

    address: Address
    """The entry with the largest share of the score's square."""
    value: float
    """Its weight."""
    layer: int | None
    """Its layer, where the tensor's name tells it."""
    out_channel: int
    """The row: the channel of the residual stream that it writes."""
    in_neuron: int
    """The neuron that it reads."""
    score: float
    """The row's score (see `discovery.scan`)."""
    ratio: float
    """The score over the median score of the matrix's rows."""
    rank: int
    """Its place among them (0: first)."""
    share: float
    """The entry's share of the score's square."""
    value_rank: int | None
    """How many weights of the tensor are larger in magnitude; None: more than 63."""
    z: float | None
    """The weight's distance from the tensor's median, in robust sigmas; None where those are 0."""
    kind: str
    """The form of its block: gated, fused or ungated."""
    expert: int | None = None
    """Its expert, in a stack of them."""
    spectrum: Spectrum | None = None
    """Its exact form, where it was asked for."""


@dataclass(frozen=True)
class SuperNeuron:
    """A neuron whose output column is large and sparse.

    Source: super neurons with a channel-sparse down-projection, arXiv 2605.06611; the measure is ours.
    """

    tensor: str
    """The matrix that its column is in."""
    layer: int | None
    """Its layer, where the tensor's name tells it."""
    in_neuron: int
    """Its number."""
    out_channel: int
    """The channel that its largest entry writes."""
    ratio: float
    """The size of its contribution (norms of its input rows times the norm of its column) over the matrix's median."""
    sparsity: float
    """The share of its largest entry in the column's square (1: it writes one channel only)."""
    expert: int | None = None
    """Its expert, in a stack of them."""


@dataclass(frozen=True)
class TensorOutliers:
    """How far a tensor's largest weight and its largest row and column stand out.

    NaN and infinite entries are counted, and taken as 0 in everything else.
    """

    name: str
    """The tensor."""
    shape: tuple[int, ...]
    """Its shape."""
    dtype: str
    """Its type in the file."""
    largest: tuple[int, ...]
    """The index of the largest |weight|."""
    value: float
    """The weight there."""
    z: float | None
    """Its distance from the median in robust sigmas: 1.4826 times the median distance from the median, estimated on up
    to a million evenly spaced entries; None where that is 0."""
    kurtosis: float | None
    """The fourth central moment over the squared variance: 3 for a normal distribution; None without variance."""
    row_ratio: float | None
    """The largest norm of a row over the median one; None for a vector, or where the median is 0."""
    column_ratio: float | None
    """The same for columns."""
    nan: int
    """Entries that are no number."""
    infinite: int
    """Entries that are infinite."""


@dataclass(frozen=True)
class Skipped:
    """What was not scored."""

    place: str
    """The tensor or module."""
    reason: str
    """Why."""


@dataclass(frozen=True)
class Scan:
    """What the weights alone show: suspects and neurons by ratio, tensors by the z of their largest weight."""

    suspects: tuple[Suspect, ...]
    """Rows that stand out from their layer."""
    neurons: tuple[SuperNeuron, ...]
    """Neurons with a large output column."""
    tensors: tuple[TensorOutliers, ...]
    """Every tensor."""
    blocks: int
    """How many feed-forward blocks were scored."""
    skipped: tuple[Skipped, ...]
    """What looked like one and was not scored."""
    conditions: dict[str, Any]
    """The checkpoint, and what was asked."""
    caveat: str = CAVEAT
    """What all this does not prove."""

    @property
    def damaged(self) -> tuple[TensorOutliers, ...]:
        """The tensors with NaN or infinite entries."""
        return tuple(tensor for tensor in self.tensors if tensor.nan or tensor.infinite)
