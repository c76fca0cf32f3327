"""Weights with exact zeros: ReLU attention (Guo et al. 2410.13835), softpick and rectified-only (2504.20966).

    softpick(x)_i       = max(0, e^x_i - 1) / (sum_j |e^x_j - 1| + eps)
    rectified-only(x)_i = max(0, e^x_i - 1) / (sum_j max(0, e^x_j - 1) + eps)

Where we differ from the authors' code: both sides are shifted by max(0, largest score), not by the largest score,
which is the same number wherever some score is positive and has no nan gradient where all are very negative.
eps is 1e-8 after the shift, as in their plain file (their kernel has 1e-6). Their "scaled softpick" multiplies
scores by a learned number times the logarithm of the length, after Scalable-Softmax (2501.19399); ours by
log(1 + n), n the tokens seen, since log 1 would silence the first token, and it starts at 1 / log(1 + context).
ReLU attention has no normaliser.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from superweights.lab.parts.sigmoid import EPSILON


def relu(scores: Tensor) -> Tensor:
    """max(0, s)."""
    return torch.relu(scores)


def softpick(scores: Tensor) -> Tensor:
    """max(0, e^s - 1) over the row's sum of |e^s - 1|; scores masked with -inf count in neither."""
    rising = _rising(scores)
    size = torch.where(scores > -torch.inf, rising.abs(), 0).sum(-1, keepdim=True)
    return torch.relu(rising) / (size + EPSILON)


def softpick_with_gradient(scores: Tensor, weights_grad: Tensor) -> tuple[Tensor, Tensor]:
    """Softpick's weights, and the gradient of the scores: in row i with D the sum of |e^s - 1|,

        dL/ds_j = (e^s_j / D) (1[s_j > 0] g_j - sign(s_j) sum_k w_k g_k),   sign(0) = -1

    (the authors' kernel, backward); what is masked gets none.
    """
    shift = scores.amax(-1, keepdim=True).clamp_(min=0)
    growth = (scores - shift).exp_()
    rising = _shifted(scores, shift)
    size = rising.abs().masked_fill_(scores == -torch.inf, 0).sum(-1, keepdim=True).add_(EPSILON)
    weights = rising.clamp(min=0).div_(size)
    told = (weights * weights_grad).sum(-1, keepdim=True)
    sides = torch.where(rising > 0, weights_grad - told, told)
    return weights, growth.div_(size).mul_(sides)


softpick.with_gradient = softpick_with_gradient  # type: ignore[attr-defined]


def rectified(scores: Tensor) -> Tensor:
    """max(0, e^s - 1) over its own row's sum: rows add up to one, and sinks come back (negative control)."""
    rising = torch.relu(_rising(scores))
    return rising / (rising.sum(-1, keepdim=True) + EPSILON)


def _rising(scores: Tensor) -> Tensor:
    """(e^s - 1) e^-m with m = max(0, largest s)."""
    return _shifted(scores, scores.detach().amax(-1, keepdim=True).clamp(min=0))


def _shifted(scores: Tensor, shift: Tensor) -> Tensor:
    """(e^s - 1) e^-shift: for small scores without the digits that e^s and 1 have in common, for large ones finite."""
    small = scores.clamp(max=1).expm1() * (-shift).exp()
    return torch.where(scores > 1, (scores - shift).exp() - (-shift).exp(), small)


class LengthScale(nn.Module):
    """Queries times a learned number per head times log(1 + n), n the tokens that the query sees."""

    def __init__(self, heads: int, context: int):
        super().__init__()
        self.start = 1 / math.log(1 + context)
        self.scale = nn.Parameter(torch.full((heads,), self.start))

    def reset(self, std: float) -> None:
        """1 / log(1 + context), so that the longest row starts as plain softpick."""
        del std
        nn.init.constant_(self.scale, self.start)

    def forward(self, query: Tensor, seen: Tensor) -> Tensor:
        """[B, H, T, d_h] to the same; `seen` broadcasts to [B, 1, T, 1]."""
        return query * (self.scale[:, None, None] * torch.log1p(seen.float())).to(query.dtype)
