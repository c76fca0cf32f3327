"""Attention maps taken a few queries at a time, so that no second map of their size stands in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from superweights.axes import Float
from superweights.errors import SuperweightsError

_NUMBERS = 1 << 22


def query_slices(weights: Float[Tensor, "B H T S"], first: int = 0) -> Iterator[slice]:
    """Slices of the queries of `weights [B, H, T, S]` from `first` on, of a few million numbers each."""
    rows, heads, queries, keys = weights.shape
    step = max(1, _NUMBERS // (rows * heads * keys))
    for start in range(first, queries, step):
        yield slice(start, min(start + step, queries))


def check_causal(weights: Float[Tensor, "B H T S"], layer: int) -> None:
    """Raise `SuperweightsError` where the first query of `weights [B, H, T, S]` looks beyond the first token."""
    if looks_ahead(weights):
        beyond = weights[:, :, 0, 1:].sum(-1).max().item()
        raise SuperweightsError(
            f"In layer {layer} the first token attends to later ones (weight {beyond:.2g}): the model is no "
            "causal decoder.",
            hint="these questions are about decoders, where every token sees the first one.",
        )


def looks_ahead(weights: Tensor) -> bool:
    """Whether the first query of `weights [B, H, T, S]` looks beyond the first token."""
    square = weights.shape[-2] == weights.shape[-1] and weights.shape[-1] > 1
    return square and weights[:, :, 0, 1:].sum(-1).max().item() > 1e-3


def repeated(per_group: Float[Tensor, "B H_kv S d_h"], heads: int) -> Float[Tensor, "B H S d_h"]:
    """Keys or values `[B, H_kv, S, d_h]` as each query head uses them: `[B, H, S, d_h]`, without a copy where equal."""
    groups = per_group.shape[1]
    return per_group if groups == heads else torch.repeat_interleave(per_group, heads // groups, 1)
