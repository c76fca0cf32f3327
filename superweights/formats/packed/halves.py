"""Embedding and head that stay in bfloat16 in a model that computes in float32.

A packed checkpoint stores both in bfloat16 unless asked otherwise. Loaded in float32 every number would take twice the
room and twice the reading, which for the head of a small model is half the time of a token. The products are those of
the stored numbers, taken in float32: nothing is rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.formats.packed.native import multiply_bfloat16

# Rows of a head that are made float32 at a time.
_PART = 8192


class HalfEmbedding(nn.Module):
    """Rows of a bfloat16 table `[tokens, channels]` in float32, for token ids of any shape."""

    def __init__(self, weight: Tensor, padding_idx: int | None):
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.weight).float()  # type: ignore[arg-type]


class HalfLinear(nn.Module):
    """`y = W x` in float32 with `W` `[outputs, inputs]` in bfloat16."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.out_features, self.in_features = weight.shape
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        weight: Any = self.weight
        flat = x.reshape(-1, self.in_features)
        y = multiply_bfloat16(flat, weight)
        if y is None:
            parts = [functional.linear(flat, part.to(flat.dtype)) for part in weight.split(_PART)]
            y = torch.cat(parts, 1)
        return y.reshape(*x.shape[:-1], self.out_features)


def keep_in_half(model: nn.Module) -> None:
    """Put both in the place of embedding and head of `model`, where these are float32 and hold bfloat16 numbers.

    Only plain ones without a bias: an embedding that scales its rows, or a head that caps its logits, stays.
    """
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear or head.bias is not None:
        return
    weights = (embedding.weight, head.weight)
    if (
        any(w.dtype != torch.float32 or w.device.type != "cpu" for w in weights)
        or embedding.max_norm is not None
    ):
        return
    halves = [w.detach().bfloat16() for w in weights[: 1 if weights[0] is weights[1] else 2]]
    if any(not torch.equal(half.float(), w) for half, w in zip(halves, weights, strict=False)):
        return
    places = {id(module): name for name, module in model.named_modules()}
    made = {id(embedding): HalfEmbedding(halves[0], embedding.padding_idx), id(head): HalfLinear(halves[-1])}
    for old, new in made.items():
        parent, _, leaf = places[old].rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)
