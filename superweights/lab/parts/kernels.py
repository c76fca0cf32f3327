"""Attention by kernels: ELU, linear and MLP feature maps (Gu et al. 2410.10781, section 7).

`elu` and `elu_normalized` act on scores; the three kernels act on queries and keys (after positions), and their
scores are products of what the feature maps give. A normaliser that can cross zero (linear and MLP kernel) is the
size of the row's sum, at least one, as in Gu et al.'s code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.lab.parts.sigmoid import EPSILON


def elu(scores: Tensor) -> Tensor:
    """elu(s) + 1: exp(s) below zero, s + 1 above."""
    return functional.elu(scores) + 1


def elu_normalized(scores: Tensor) -> Tensor:
    """elu(s) + 1 over its row's sum."""
    weights = elu(scores)
    return weights / (weights.sum(-1, keepdim=True) + EPSILON)


def plain(scores: Tensor) -> Tensor:
    """The scores themselves."""
    return torch.where(scores > -torch.inf, scores, 0)


def over_sum(scores: Tensor) -> Tensor:
    """The scores over their row's sum (feature maps are positive)."""
    weights = plain(scores)
    return weights / (weights.sum(-1, keepdim=True) + EPSILON)


def over_size(scores: Tensor) -> Tensor:
    """The scores over the size of their row's sum, at least one."""
    weights = plain(scores)
    return weights / weights.sum(-1, keepdim=True).abs().clamp(min=1)


class EluMap(nn.Module):
    """phi(x) = elu(x) + 1 on queries and keys."""

    def forward(self, heads: Tensor) -> Tensor:
        """[B, H, T, d_h] to the same."""
        return elu(heads)


class MLPMap(nn.Module):
    """phi(x) = relu(W2 relu(W1 x)), two d_h x d_h matrices for queries and keys of all heads of a layer.

    Gu et al. say "two linear maps with ReLU"; that the second is followed by one is our reading.
    """

    def __init__(self, d_head: int):
        super().__init__()
        self.inner = nn.Linear(d_head, d_head, bias=False)
        self.outer = nn.Linear(d_head, d_head, bias=False)

    def forward(self, heads: Tensor) -> Tensor:
        """[B, H, T, d_h] to the same."""
        return self.outer(self.inner(heads).relu()).relu()
