"""RMSNorm whose way back is written out; on a processor torch goes back through every step of it by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Norm(nn.RMSNorm):
    """`nn.RMSNorm` with its parameters and its numbers; differentiable once while it is in training."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.eps is None:
            return super().forward(x)
        return _Normed.apply(x, self.weight, self.eps)  # type: ignore[no-any-return]


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        factor = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * factor.to(x.dtype)
        ctx.save_for_backward(unit, factor, weight)
        return unit * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """With y = x / rms: dx = (g w - y mean(g w y)) / rms, and dw = sum of g y over all places."""
        unit, factor, weight = ctx.saved_tensors
        along = grad * unit
        share = (along @ weight).div_(-weight.numel())[..., None]
        to_x = (grad * weight).addcmul_(unit, share).mul_(factor.to(grad.dtype))
        return to_x, along.flatten(0, -2).sum(0), None
