"""The outliers of one tensor, in one pass over it and in little memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint
from superweights.findings.scan import TensorOutliers

# Numbers worked on at a time, and read at a time from tensors too large to hold at once.
_TILE = 1 << 18
_WHOLE = 1 << 26
# The median of |W| is taken over about this many evenly spaced entries.
_SAMPLE = 1 << 20
# So many magnitudes are kept to rank an entry of the tensor.
RANKED = 64


@dataclass(eq=False)
class Tally:
    """What a pass over one tensor adds up: squares by row and by column, moments, and the largest entries.

    The tensor is seen as `experts` matrices of `rows x columns`; a vector is one row.
    """

    experts: int
    rows: int
    columns: int

    def __post_init__(self) -> None:
        self.row_squares = torch.zeros(self.experts, self.rows, dtype=torch.float64)
        self.column_squares = torch.zeros(self.experts, self.columns, dtype=torch.float64)
        self.sums = torch.zeros(4, dtype=torch.float64)
        self.top = torch.zeros(0)
        self.largest, self.value = (0, 0, 0), 0.0
        self.nan = self.infinite = 0
        # Filled in place: small tensors kept between large temporary ones would fragment the heap.
        self._stride = max(1, self.count // _SAMPLE)
        self._sample = torch.empty(-(-self.count // self._stride))
        self._seen = 0

    @property
    def count(self) -> int:
        """How many entries the tensor has."""
        return self.experts * self.rows * self.columns

    def add(self, expert: int, start: int, tile: Tensor) -> Tensor:
        """Add rows `start` onwards of one matrix, `tile [rows, columns]`; returns it with NaN and inf as 0."""
        finite = tile.isfinite()
        if not finite.all():
            self.nan += int(tile.isnan().sum())
            self.infinite += int(tile.isinf().sum())
            tile = tile.where(finite, 0.0)
        squares = tile.square()
        by_row = squares.sum(1, dtype=torch.float64)
        self.row_squares[expert, start : start + len(tile)] = by_row
        self.column_squares[expert] += squares.sum(0, dtype=torch.float64)
        powers = (tile, None, squares * tile, squares.square())
        self.sums += torch.stack(
            [by_row.sum() if power is None else power.sum(dtype=torch.float64) for power in powers]
        )
        self._rank(expert, start, tile)
        self._take(tile.flatten())
        return tile

    def _take(self, entries: Tensor) -> None:
        """Put every `stride`-th entry of the tensor into the sample."""
        first = -(-self._seen // self._stride)
        taken = entries[first * self._stride - self._seen :: self._stride]
        self._sample[first : first + len(taken)] = taken
        self._seen += len(entries)

    def _rank(self, expert: int, start: int, tile: Tensor) -> None:
        magnitudes = tile.abs().flatten()
        best = int(magnitudes.argmax())
        if float(magnitudes[best]) > abs(self.value):
            self.value = float(tile.flatten()[best])
            self.largest = expert, start + best // self.columns, best % self.columns
        merged = torch.cat([self.top, magnitudes.topk(min(RANKED, len(magnitudes))).values])
        self.top = merged.topk(min(RANKED, len(merged))).values

    def rank_of(self, value: float) -> int | None:
        """How many entries are larger in magnitude; None where more are than were kept."""
        larger = int((self.top > abs(value)).sum())
        return None if larger == RANKED else larger

    @cached_property
    def _spread(self) -> tuple[float, float]:
        """The median and the robust sigma of the entries, once all are added."""
        centre = self._sample.median()
        return float(centre), 1.4826 * float((self._sample - centre).abs().median())

    def sigmas(self, value: float) -> float | None:
        """The distance of `value` from the median in robust sigmas, or None where those are 0."""
        centre, sigma = self._spread
        return abs(value - centre) / sigma if sigma > 0 else None

    def summary(self, name: str, shape: tuple[int, ...], dtype: str) -> TensorOutliers:
        """The finished description of the tensor."""
        flat = len(shape) == 1
        return TensorOutliers(
            name=name,
            shape=shape,
            dtype=dtype,
            largest=self.largest[3 - len(shape) :],
            value=self.value,
            z=self.sigmas(self.value),
            kurtosis=self._kurtosis(),
            row_ratio=None if flat else over_median(self.row_squares.flatten().sqrt()),
            column_ratio=None if flat else over_median(self.column_squares.flatten().sqrt()),
            nan=self.nan,
            infinite=self.infinite,
        )

    def _kurtosis(self) -> float | None:
        """The fourth central moment over the squared variance."""
        mean, second, third, fourth = (float(total) / self.count for total in self.sums)
        variance = second - mean**2
        if not variance > 1e-12 * second:
            return None
        return (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / variance**2


def tally_for(shape: tuple[int, ...]) -> Tally:
    """An empty tally for a tensor of one, two or three dimensions."""
    return Tally(*(1, 1, 1, *shape)[-3:])


def tiles(checkpoint: Checkpoint, name: str) -> Iterator[tuple[int, int, Tensor]]:
    """The tensor piece by piece: expert, first row, `[rows, columns]` in float32. Holds one piece, or one tensor.

    A vector is one row; more than three dimensions are refused by the caller.
    """
    experts, rows, columns = (1, 1, 1, *checkpoint.tensors[name].shape)[-3:]
    step = max(1, _TILE // columns)
    if len(checkpoint.tensors[name].shape) == 2 and rows * columns > _WHOLE:
        for start in range(0, rows, step):
            piece = checkpoint.read_rows(name, start, min(start + step, rows))
            yield 0, start, piece.reshape(-1, columns).float()
        return
    matrices = checkpoint.read(name).reshape(experts, rows, columns)
    for expert in range(experts):
        for start in range(0, rows, step):
            yield expert, start, matrices[expert, start : start + step].float()


def over_median(values: Tensor) -> float | None:
    """The largest of `values` over their median, or None where that is 0."""
    median = float(values.median())
    return float(values.max()) / median if median > 0 and math.isfinite(median) else None
