"""Differential attention: one softmax map minus another (Ye et al. 2410.05258; V2: unilm Diff-Transformer).

V1: of 2h heads of queries and keys, heads 2i and 2i + 1 are a pair with one value of twice the width,

    out_i = (1 - lambda_init) RMSNorm((softmax_2i - lambda softmax_2i+1) V_i)
    lambda = exp(lq1 . lk1) - exp(lq2 . lk2) + lambda_init,   lambda_init = 0.8 - 0.6 exp(-0.3 layer)

with one learned gain for the norms of a layer (transformers' diffllama has none). V2: twice the query heads, keys
and values as they were, out_i = attn_2i - sigmoid(x W)_i attn_2i+1, no norm. Pairs lie side by side in both, so that
under grouped keys a pair shares its key and value, as it must.

The four lambda vectors of V1 start as N(0, 0.1^2) and are not decayed; the paper does not say.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from superweights.lab.parts.norms import RMSNorm


class Difference(nn.Module):
    """V1: the difference of the outputs of each pair of heads, normed."""

    def __init__(self, d_head: int, layer: int):
        super().__init__()
        self.initial = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.query1, self.key1, self.query2, self.key2 = (nn.Parameter(torch.zeros(d_head)) for _ in range(4))
        self.norm = RMSNorm(2 * d_head, 1e-5)

    def reset(self, std: float) -> None:
        """N(0, 0.1^2) whatever the matrices' std."""
        del std
        for vector in (self.query1, self.key1, self.query2, self.key2):
            nn.init.normal_(vector, 0.0, 0.1)

    def amount(self) -> Tensor:
        """lambda, one number in float32."""
        one, two = (q.float() @ k.float() for q, k in ((self.query1, self.key1), (self.query2, self.key2)))
        return one.exp() - two.exp() + self.initial

    def forward(self, out: Tensor, read: Tensor) -> Tensor:
        """[B, T, 2h, 2 d_h] to [B, T, h, 2 d_h]."""
        del read
        difference = out[..., 0::2, :] - self.amount().to(out.dtype) * out[..., 1::2, :]
        return self.norm(difference) * (1 - self.initial)

    def of_weights(self, weights: Tensor, read: Tensor) -> Tensor:
        """[B, 2h, T, S] to the maps [B, h, T, S] that meet the values (before the norm)."""
        del read
        return weights[:, 0::2] - self.amount().to(weights.dtype) * weights[:, 1::2]


class DifferenceV2(nn.Module):
    """V2: the second head of each pair is subtracted as much as the input says."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.proj = nn.Linear(width, heads, bias=False)

    def forward(self, out: Tensor, read: Tensor) -> Tensor:
        """[B, T, 2h, d_h] to [B, T, h, d_h]; `read` is what attention reads [B, T, d]."""
        amount = torch.sigmoid(self.proj(read))
        return out[..., 0::2, :] - amount[..., None] * out[..., 1::2, :]

    def of_weights(self, weights: Tensor, read: Tensor) -> Tensor:
        """[B, 2h, T, S] to the maps [B, h, T, S] that meet the values."""
        amount = torch.sigmoid(self.proj(read)).transpose(1, 2)
        return weights[:, 0::2] - amount[..., None] * weights[:, 1::2]
