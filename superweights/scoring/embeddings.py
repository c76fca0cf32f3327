"""How far a model's embeddings move: 1 - cosine to those of the model as it is, and whose neighbours change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from superweights.scoring.predictions import Variant
from superweights.subject import Batch, device_of, objective_of
from superweights.subject.embedding import distances, neighbours
from superweights.subject.facts import forward, predicted


@torch.no_grad()
def embeddings(variant: Variant, batch: Batch) -> Tensor:
    """The embedding of each row of `batch`: `[rows, width]`, float32, on the CPU."""
    objective: Any = objective_of(variant.model)
    with variant.change():
        states = predicted(forward(variant.model, batch.to(device_of(variant.model))))
    return objective.pool(states).cpu()


def moved(base: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """How far each embedding has moved (1 - cosine), and whether its nearest neighbour among the rows is the same.

    Both are `[rows, width]`; so the answers are `[rows]`, float64 of 0 and 1 the second. One row alone keeps its
    neighbour.
    """
    if len(base) < 2:
        return distances(base, other).double(), torch.ones(len(base), dtype=torch.float64)
    return distances(base, other).double(), (neighbours(base) == neighbours(other)).double()
