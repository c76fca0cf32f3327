"""Norms: what stands before (or after) a sub-layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """`gain * x / sqrt(mean(x^2) + eps)` over the last axis, one gain per channel (1910.07467, eq. 4)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.width, self.eps = (width,), eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        return functional.rms_norm(x, self.width, self.weight, self.eps)


class RMSNormSingle(nn.Module):
    """The same with one gain for all channels, which leaves no axis a place of its own (2410.17174, RMSNorm-S)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.width, self.eps = (width,), eps
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        return functional.rms_norm(x, self.width, self.weight.expand(self.width), self.eps)


class RMSNormPlain(nn.Module):
    """The same without a gain (called SRMSNorm elsewhere)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.width, self.eps = (width,), eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        return functional.rms_norm(x, self.width, None, self.eps)


class DynamicTanh(nn.Module):
    """`weight * tanh(alpha x) + bias`, alpha one number, 0.5 at the start (Zhu et al. 2503.10622, eq. 1)."""

    def __init__(self, width: int, eps: float):
        del eps  # has no statistic to guard
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        return self.weight * torch.tanh(self.alpha * x) + self.bias


def make_norm(name: str, width: int, eps: float) -> nn.Module:
    """The norm called `name` in `parts.kinds.NORMS`."""
    if name == "layer":
        return nn.LayerNorm(width, eps)
    kinds = {"rms": RMSNorm, "rms_single": RMSNormSingle, "rms_none": RMSNormPlain, "tanh": DynamicTanh}
    return kinds[name](width, eps)
