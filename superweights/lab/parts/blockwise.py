"""Attention whose weights are a function of each row of scores, without the matrix of weights of a whole layer.

Queries are taken in blocks, heads in groups, so that what is computed at a time stays in the processor's cache and
what lies in the future of a whole block is never computed. Only queries, keys, values are kept for the backward
pass, which computes the scores again, as flash attention does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Weigh = Callable[[Tensor], Tensor]

ROWS = 64  # queries at a time
NUMBERS = 2**18  # scores at a time, about (1 MiB in float32)


def attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weigh: Weigh,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scaling: float,
) -> Tensor:
    """Output [B, H, T, d_v] of `weigh(query key^T scaling) value`, for any function of rows of masked scores.

    `query` [B, H, T, d_h], `key` [B, H, S, d_h], `value` [B, H, S, d_v]; `weigh` takes and gives [..., T, S] in
    float32, masked scores at -inf, zero there; `mask` broadcasts to [B, 1 or H, T, S], bool or additive (as
    `null_kernel.additive` makes it); `causal` needs T = S and no mask.
    """
    query, key = (
        query.to(value.dtype),
        key.to(value.dtype),
    )  # positions may have made them wider under autocast
    with torch.autocast(query.device.type, enabled=False):
        return _Blocks.apply(query, key, value, weigh, mask, causal, scaling)  # type: ignore[return-value]


def derivative(weigh: Weigh, scores: Tensor, weights_grad: Tensor) -> tuple[Tensor, Tensor]:
    """The weights, and the gradient of the scores, by the function's own rule where it has one, else by autograd."""
    rule = getattr(weigh, "with_gradient", None)
    if rule is not None:
        return rule(scores, weights_grad)
    with torch.enable_grad():
        scores = scores.detach().requires_grad_()
        weights = weigh(scores)
    return weights.detach(), torch.autograd.grad(weights, scores, weights_grad)[0]


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        weigh: Weigh,
        mask: Tensor | None,
        causal: bool,
        scaling: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.weigh, ctx.causal, ctx.scaling = weigh, causal, scaling
        out = query.new_empty((*query.shape[:3], value.shape[-1]))
        q, k, v, o = (x.flatten(0, 1) for x in (query, key, value, out))
        for part in _parts(query, key, mask, causal, scaling):
            weights = weigh(part.scores(q, k)).to(v.dtype)
            torch.bmm(weights, v[part.heads, : part.keys], out=o[part.heads, part.rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, mask = ctx.saved_tensors
        q, k, v, g = (x.flatten(0, 1) for x in (query, key, value, grads[0]))
        dq = torch.empty_like(q)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for part in _parts(query, key, mask, ctx.causal, ctx.scaling):
            heads, rows, keys = part.heads, part.rows, part.keys
            grad = g[heads, rows]
            weights_grad = torch.bmm(grad, v[heads, :keys].transpose(1, 2)).float()
            weights, scores_grad = derivative(ctx.weigh, part.scores(q, k), weights_grad)
            scores_grad = scores_grad.to(q.dtype)
            torch.bmm(scores_grad, k[heads, :keys], out=dq[heads, rows])
            dk[heads, :keys].baddbmm_(scores_grad.transpose(1, 2), q[heads, rows], alpha=ctx.scaling)
            dv[heads, :keys].baddbmm_(weights.to(v.dtype).transpose(1, 2), grad)
        dq *= ctx.scaling
        return *(x.view_as(y) for x, y in ((dq, query), (dk, key), (dv, value))), None, None, None, None


class _Part:
    """Some heads and rows of a layer's scores, and the keys they see."""

    def __init__(self, heads: slice, rows: slice, keys: int, scaling: float):
        self.heads, self.rows, self.keys, self.scaling = heads, rows, keys, scaling
        self.mask: Tensor | None = None
        self.future: Tensor | None = None

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Masked scores [heads, rows, keys] in float32; `query` and `key` [B * H, T or S, d_h]."""
        q, k = query[self.heads, self.rows], key[self.heads, : self.keys]
        scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=self.scaling).float()
        if self.future is not None:
            scores[..., self.rows].masked_fill_(self.future, -torch.inf)
        return scores if self.mask is None else scores.add_(self.mask)


def _parts(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scaling: float) -> Iterator[_Part]:
    """The parts that cover all heads and rows, as many heads at a time as make `NUMBERS` scores."""
    batch, heads, tokens, _ = query.shape
    keys = key.shape[2]
    together = 1 if mask is not None else max(1, NUMBERS // (heads * min(ROWS, tokens) * keys))
    future = torch.ones(ROWS, ROWS, dtype=torch.bool, device=query.device).triu_(1) if causal else None
    for first in range(0, batch, together):
        group = slice(first * heads, min(first + together, batch) * heads)
        for row in range(0, tokens, ROWS):
            rows = slice(row, min(row + ROWS, tokens))
            part = _Part(group, rows, rows.stop if causal else keys, scaling)
            if mask is not None:
                part.mask = mask.expand(batch, -1, tokens, keys)[first, :, rows]
            if future is not None:
                part.future = future[: rows.stop - row, : rows.stop - row]
            yield part
