"""Where a stored matrix lies in the parameter that the loader stacks from many: told by its values, not by names."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.errors import SuperweightsError


@dataclass(frozen=True)
class Piece:
    """A stored tensor inside a parameter `[experts, ...]`: which part of it the tensor is."""

    expert: int | None
    """Its place on the first axis; None where the tensor is the whole parameter."""
    axis: int
    """The axis of the expert's matrix along which several tensors lie one after the other."""
    start: int
    """Where it begins on that axis."""
    transposed: bool
    """Whether the loader turns rows into columns."""

    def put(self, values: Tensor, into: Tensor) -> None:
        """Write `values`, as the file has them, to their place in the parameter `into`."""
        if self.expert is None:
            into.copy_(values)
            return
        values = values.T if self.transposed else values
        into[self.expert].narrow(self.axis, self.start, values.shape[self.axis]).copy_(values)


def place_of(name: str, stored: Tensor, made: Tensor) -> Piece:
    """Where the tensor `name` with the values `stored` stands in the parameter `made` of the loaded model.

    Raises `SuperweightsError` where it is nowhere as a whole.
    """
    if stored.shape == made.shape and torch.equal(stored, made):
        return Piece(None, 0, 0, False)
    if stored.dim() == 2 and made.dim() == 3:
        numbers = [int(each) for each in re.findall(r"\d+", name)]
        likely = dict.fromkeys(n for n in reversed(numbers) if n < len(made))
        for expert in [*likely, *(n for n in range(len(made)) if n not in likely)]:
            for transposed in (False, True):
                found = _start(stored.T if transposed else stored, made[expert])
                if found is not None:
                    return Piece(expert, *found, transposed)
    raise SuperweightsError(
        f"{name} cannot be found again in the model that transformers loads.",
        hint="its loader changes the values; write --format dense.",
    )


def _start(piece: Tensor, whole: Tensor) -> tuple[int, int] | None:
    """Axis and place at which `whole` has `piece`, in multiples of its size."""
    for axis in (0, 1):
        size = piece.shape[axis]
        if piece.shape[1 - axis] != whole.shape[1 - axis] or whole.shape[axis] % size:
            continue
        for start in range(0, whole.shape[axis], size):
            if torch.equal(whole.narrow(axis, start, size), piece):
                return axis, start
    return None
