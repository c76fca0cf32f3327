"""What goes into a model's forward, and which of its predictions are scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

# The label of a position that is not scored; transformers uses the same number.
UNSCORED = -100


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows that go through a model together."""

    arguments: dict[str, Tensor]
    """What `forward` is given, by the names of its parameters. The first axis of each holds the rows, or as many
    entries for each row (the patches of pictures of one size)."""
    labels: Tensor | None = None
    """The token id `[rows, length]` that the model should predict at each position of its logits, `UNSCORED` where
    nothing is asked; None where the model has no head and its embedding is compared."""

    def __len__(self) -> int:
        held = self.labels if self.labels is not None else next(iter(self.arguments.values()))
        return len(held)

    @cached_property
    def at(self) -> tuple[Tensor, Tensor]:
        """Row and position `[k]` of each prediction that is scored, row by row."""
        rows, positions = (self._labelled() != UNSCORED).nonzero(as_tuple=True)
        return rows, positions

    @cached_property
    def targets(self) -> Tensor:
        """The token id `[k]` that each of them should have predicted."""
        return self._labelled()[self.at]

    @cached_property
    def is_even(self) -> bool:
        """Whether as many predictions are scored in every row."""
        rows, _ = self.at
        return len(torch.bincount(rows, minlength=len(self)).unique()) < 2

    @property
    def length(self) -> int:
        """How many positions the model's output has."""
        held = self.labels if self.labels is not None else next(iter(self.arguments.values()))
        return held.shape[1]

    def take(self, rows: slice | Tensor) -> Batch:
        """The batch of some of the rows."""
        count = len(self)
        labels = None if self.labels is None else self.labels[rows]
        return Batch({name: _rows_of(held, rows, count) for name, held in self.arguments.items()}, labels)

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        arguments = {name: held.to(device) for name, held in self.arguments.items()}
        return replace(
            self, arguments=arguments, labels=None if self.labels is None else self.labels.to(device)
        )

    def ids_at(self, shape: tuple[int, ...], last: bool) -> Tensor | None:
        """The token ids `[rows, tokens]` that hidden states of this shape belong to; None where there are none.

        `last`: the states are those of the tower that predicts, so that a second sequence is meant where there is one.
        """
        fitting = [
            held
            for held in self.arguments.values()
            if held.dim() == 2 and not held.is_floating_point() and held.shape == shape[:2]
        ]
        return None if not fitting else fitting[-1 if last and "decoder_input_ids" in self.arguments else 0]

    def mean_by_row(self, values: Tensor) -> Tensor:
        """The mean over each row's scored positions, `[rows]`, of one number for each of them, `[k]`."""
        rows, _ = self.at
        sums = torch.zeros(len(self), dtype=values.dtype, device=values.device)
        counts = torch.bincount(rows, minlength=len(self)).clamp_min(1).to(values)
        return sums.index_add(0, rows.to(values.device), values) / counts

    def _labelled(self) -> Tensor:
        assert self.labels is not None, "asked only where there is something to predict"
        return self.labels


def _rows_of(held: Tensor, rows: slice | Tensor, count: int) -> Tensor:
    """Some rows of an argument whose first axis holds `count` rows, or a multiple of that."""
    if held.shape[0] == count:
        return held[rows]
    return held.unflatten(0, (count, -1))[rows].flatten(0, 1)
