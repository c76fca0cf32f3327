"""Causal attention within a window, for training on a processor: block by block of queries, weights kept.

torch's own attention there spends more than half of its time outside of products where heads are narrow (16 numbers a
head), and makes every weight a second time to go backward. Here each block of queries of one row is two batched
products and one softmax, which stay near the processor; the weights are kept for the way back (for each head about
N x N / 2 numbers in rows no longer than the window, N x window in longer ones). No block reads a key that none of its
queries may see.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from superweights.axes import Float

# Queries of a block: 4 heads x 128 queries x 512 keys in single precision are a megabyte.
_QUERIES = 128


def by_blocks(
    q: Float[Tensor, "rows tokens heads head_width"],
    k: Float[Tensor, "rows tokens heads head_width"],
    v: Float[Tensor, "rows tokens heads head_width"],
    window: int,
) -> Float[Tensor, "rows tokens heads head_width"]:
    """Causal attention to the last `window` positions, logits scaled by 1 / sqrt(head_width). Differentiable once."""
    return _ByBlocks.apply(q, k, v, window)


class _ByBlocks(torch.autograd.Function):
    """Products are into whole tensors: into a part of one, torch multiplies head by head."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        q = q * q.shape[-1] ** -0.5
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        blocks = _blocks(q.shape[1], window)
        hidden = [_hidden(*block, window, q) for block in blocks]
        kept = [q.new_empty(q.shape[0], q.shape[2], *mask.shape) for mask in hidden]
        for row in range(len(q)):
            for (asked, read), mask, all_weights in zip(blocks, hidden, kept, strict=True):
                weights = all_weights[row]
                logits = torch.baddbmm(mask, _heads(q[row, asked]), _heads(k[row, read]).mT)
                torch.softmax(logits, -1, out=weights)
                out[row, asked] = _heads(torch.bmm(weights, _heads(v[row, read])))
        ctx.window = window
        ctx.save_for_backward(q, k, v, out, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, *kept = ctx.saved_tensors
        less = (grad * out).sum(-1, keepdim=True).neg_()
        to_q, to_k, to_v = (torch.empty_like(out) for _ in range(3))
        blocks = _blocks(q.shape[1], ctx.window)
        for row in range(len(q)):
            # Sums over queries: with the long axis last, [H, d, N], they are twice as fast.
            row_k, row_v = (q.new_zeros(*q.shape[2:], q.shape[1]) for _ in range(2))
            for (asked, read), all_weights in zip(blocks, kept, strict=True):
                weights, given = all_weights[row], _heads(grad[row, asked])
                row_v[:, :, read] += torch.bmm(given.mT, weights)
                change = torch.baddbmm(_heads(less[row, asked]), given, _heads(v[row, read]).mT)
                change.mul_(weights)
                to_q[row, asked] = _heads(torch.bmm(change, _heads(k[row, read])))
                row_k[:, :, read] += torch.bmm(_heads(q[row, asked]).mT, change)
            to_k[row], to_v[row] = row_k.permute(2, 0, 1), row_v.permute(2, 0, 1)
        return to_q.mul_(q.shape[-1] ** -0.5), to_k, to_v, None


def _heads(x: Tensor) -> Tensor:
    """`[n, H, d]` as `[H, n, d]`, or back, in the same memory."""
    return x.transpose(0, 1)


def _blocks(n: int, window: int) -> list[tuple[slice, slice]]:
    """The queries of each block, and the keys that any of them may see."""
    bounds = [(first, min(n, first + _QUERIES)) for first in range(0, n, _QUERIES)]
    return [(slice(first, last), slice(max(0, first - window + 1), last)) for first, last in bounds]


def _hidden(asked: slice, read: slice, window: int, like: Tensor) -> Tensor:
    """What is added to the logits: 0, and -inf where a key comes after its query or too long before it."""
    back = torch.arange(asked.start, asked.stop)[:, None] - torch.arange(read.start, read.stop)
    return like.new_zeros(back.shape).masked_fill_((back < 0) | (back >= window), float("-inf"))
