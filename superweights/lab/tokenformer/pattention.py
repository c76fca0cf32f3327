"""Token-parameter attention: a linear map whose parameters are keys and values that tokens attend to.

`A = X Kᵀ`, `S = GeLU(tau * A / ||A||₂)` over the slots, `O = S V` (arXiv 2410.23168, equations 4 and 5; the released
code's default `l2_norm_gelu`). No 1/sqrt(d), no bias, no mask: slots have no order.

The keys are stored as `key.weight [n, d_in]` and the values transposed, as `value.weight [d_out, n]`: two plain
linear layers, so that whatever reads a linear layer (watching, taps, rounding) reads a Pattention. The value matrix is
what `down_proj` is elsewhere: row = output channel, column = slot.

Where we differ: the released code has no epsilon in the norm and gives NaN for a row of zeros; ours is `1e-8` beside
the norm. tau is a number that stands in the config and stays when slots are added; the paper's text and the released
code take the square root of whatever number of slots there is, which changes the function (see `growth`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from superweights.lab.tokenformer.config import Scoring

_EPS = 1e-8


class Pattention(nn.Module):
    """`[..., d_in] -> [..., d_out]` through `n` slots; `generations` says how many slots each growth added.

    Every generation is computed by itself and the parts are added, the oldest first. With zero keys a later one adds
    exactly nothing, whatever order the machine's matrix product sums in: growth keeps every bit.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        generations: int | Sequence[int],
        tau: float | None = None,
        scoring: Scoring = "l2_gelu",
    ):
        super().__init__()
        self.generations = (generations,) if isinstance(generations, int) else tuple(generations)
        self.tau = math.sqrt(self.generations[0]) if tau is None else tau
        self.scoring: Scoring = scoring
        n, grown = sum(self.generations), len(self.generations) > 1
        self.key = GrownKeys(d_in, self.generations) if grown else nn.Linear(d_in, n, bias=False)
        self.value = GrownValues(self.generations, d_out) if grown else nn.Linear(n, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.scores(x))

    def scores(self, x: Tensor) -> Tensor:
        """`S [..., n]`: how much each slot is used. `|S| <= tau` for the two L2 scorings, whatever `x` is."""
        if self.training and self.scoring == "l2_gelu" and len(self.generations) == 1:
            return _Scored.apply(self.key(x), self.tau)  # type: ignore[no-any-return]
        return score(self.key(x), self.tau, self.scoring, self.generations)

    def extra_repr(self) -> str:
        return f"generations={self.generations}, tau={self.tau:.4g}, scoring={self.scoring}"


class _Scored(torch.autograd.Function):
    """`score` by `l2_gelu` of one generation, to the bit, with its way back written out; differentiable once."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, tau: float) -> Tensor:
        norm = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
        factor = tau / (norm + _EPS)
        z = a * factor
        ctx.tau = tau
        ctx.save_for_backward(z, factor, norm)
        return functional.gelu(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """With g the gradient at z = tau a / (|a| + eps): factor (g - z (g z) (|a| + eps) / (|a| tau²)); a row of
        zeros has nothing to subtract."""
        z, factor, norm = ctx.saved_tensors
        g = torch.ops.aten.gelu_backward(grad, z)
        along = torch.linalg.vecdot(g, z)[..., None]
        share = along * (norm + _EPS) / (norm * -(ctx.tau**2)).clamp_max(-torch.finfo(norm.dtype).tiny)
        return g.addcmul_(z, share).mul_(factor), None


class GrownKeys(nn.Linear):
    """Keys of several generations: each generation's product is computed as it was before the next came."""

    def __init__(self, d_in: int, generations: Sequence[int]):
        super().__init__(d_in, sum(generations), bias=False)
        self.generations = tuple(generations)

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([functional.linear(input, w) for w in self.weight.split(self.generations)], -1)


class GrownValues(nn.Linear):
    """Values of several generations, added from the oldest on. Columns are copied, so that the product sees the same
    memory layout as before: the same kernel, the same order of additions."""

    def __init__(self, generations: Sequence[int], d_out: int):
        super().__init__(sum(generations), d_out, bias=False)
        self.generations = tuple(generations)

    def forward(self, input: Tensor) -> Tensor:
        scores = input.split(self.generations, -1)
        weights = self.weight.split(self.generations, -1)
        first, *others = (
            functional.linear(s.contiguous(), w.contiguous()) for s, w in zip(scores, weights, strict=True)
        )
        for part in others:
            first = first + part
        return first


def score(a: Tensor, tau: float, scoring: Scoring, generations: Sequence[int]) -> Tensor:
    """`S [..., n]` of the logits `a [..., n]`, whose slots stand in these generations.

    `l2_gelu`: GeLU(tau a / ||a||); `gelu_l2`: tau GeLU(a) / ||GeLU(a)||; `softmax`: tau² softmax(a), which is the
    released code's exp, L1 norm and factor n.
    """
    if scoring == "softmax":
        return tau * tau * a.softmax(-1)
    parts = a.split(tuple(generations), -1) if len(generations) > 1 else (a,)
    if scoring == "gelu_l2":
        parts = tuple(functional.gelu(part.contiguous()) for part in parts)
    factor = tau / (_norm(parts) + _EPS)
    scored = [part * factor for part in parts]
    if scoring == "l2_gelu":
        scored = [functional.gelu(part) for part in scored]
    return scored[0] if len(scored) == 1 else torch.cat(scored, -1)


def _norm(parts: Sequence[Tensor]) -> Tensor:
    """The L2 norm over all slots `[..., 1]`: of each generation, then of these norms.

    In binary floating point the root of a rounded square is the number itself, so a generation of zeros leaves the
    norm of those before it as it was, to the bit.
    """
    norms = [torch.linalg.vector_norm(part.contiguous(), dim=-1, keepdim=True) for part in parts]
    total = norms[0]
    for norm in norms[1:]:
        total = torch.linalg.vector_norm(torch.cat([total, norm], -1), dim=-1, keepdim=True)
    return total
