"""Training on CPU without the copies that autograd keeps: the same numbers, written once, their gradients by hand.

torch composes RMSNorm, rotation, gated units and the head's loss of small operations on CPU; each reads and writes a
whole activation. These do the same in fewer passes, in place where nobody looks. `fits` says where they may stand in:
on CPU, in one dtype, outside of autocast, with gradients wanted; everywhere else torch's own operations run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

ROWS = 256  # tokens whose logits exist at a time


def fits(*tensors: Tensor) -> bool:
    """Whether these kernels may be used on `tensors`: gradients are wanted, on CPU, in one dtype of 32 bits or more."""
    kinds = {(t.device.type, t.dtype) for t in tensors}
    return (
        kinds <= {("cpu", torch.float32), ("cpu", torch.float64)}
        and len(kinds) == 1
        and torch.is_grad_enabled()
        and any(t.requires_grad for t in tensors)
        and not torch.is_autocast_enabled("cpu")
    )


class RMSNormGrad(torch.autograd.Function):
    """`gain * x / sqrt(mean(x^2) + eps)`; kept are x, the gain and one number per token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(width).add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain, scale)
        return (x * scale).mul_(gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, gain, scale = ctx.saved_tensors
        (grad,) = grads
        unit = x * scale
        weighted = grad * unit
        grad_gain = weighted.flatten(0, -2).sum(0)
        told = (weighted @ gain)[..., None].div_(-x.shape[-1])
        return (grad * gain).addcmul_(unit, told).mul_(scale), grad_gain, None


class Rotate(torch.autograd.Function):
    """Pairs (i, i + d/2) of the last axis turned by angles given as cosine and sine; the gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = heads.shape[-1] // 2
        cos, sin = cos[..., :half], sin[..., :half]
        ctx.save_for_backward(cos, sin)
        return _turned(heads, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, -sin), None, None


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.empty_like(heads)
    first, second = heads.chunk(2, -1)
    one, two = out.chunk(2, -1)
    torch.mul(first, cos, out=one).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=two).addcmul_(first, sin)
    return out


class GatedSiLU(torch.autograd.Function):
    """`silu(gate) * up`; silu is computed again for the gradient instead of being kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        (grad,) = grads
        grad_up = functional.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up


class SummedLoss(torch.autograd.Function):
    """Sum of cross-entropies of `hidden` [N, d] against `labels` [N] through a head [V, d], -100 not scored.

    The logits of `ROWS` tokens exist at a time, and their gradients are taken while they do:
    d/dh = (e W) / Z - W[label], d/dW = e^T (h / Z) - h at [label], with e the exponentials and Z their sums.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        scored = labels != -100
        if not bool(scored.all()):
            ctx.scored = scored
            hidden, labels = hidden[scored], labels[scored]
        else:
            ctx.scored = None
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_head = torch.zeros_like(head) if wants_head else None
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            h, told = hidden[rows], labels[rows]
            logits = h @ head.T
            largest = logits.amax(1, keepdim=True)
            right = logits.gather(1, told[:, None])
            sums = logits.sub_(largest).exp_().sum(1, keepdim=True)
            total += (sums.log() + largest - right).sum(dtype=torch.float64)
            if grad_hidden is not None:
                torch.mm(logits, head, out=grad_hidden[rows]).div_(sums).sub_(head[told])
            if grad_head is not None:
                grad_head.addmm_(logits.T, h / sums)
        if grad_head is not None:
            grad_head.index_add_(0, labels, hidden, alpha=-1)
        ctx.save_for_backward(grad_hidden, grad_head)
        return total.to(hidden.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_hidden, grad_head = ctx.saved_tensors
        grad_hidden = None if grad_hidden is None else grad_hidden * grads[0]
        if grad_hidden is not None and ctx.scored is not None:
            whole = grad_hidden.new_zeros(len(ctx.scored), grad_hidden.shape[1])
            whole[ctx.scored] = grad_hidden
            grad_hidden = whole
        return grad_hidden, None if grad_head is None else grad_head * grads[0], None
