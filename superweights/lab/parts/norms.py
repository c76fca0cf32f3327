"""Norms: what stands before (or after) a sub-layer.

`factor` is the constant of LayerNorm Scaling (Sun et al. 2502.05795): the output of block l's norms, gain and all,
over sqrt(l), l counted from 1 in the model as it was built. It is part of the norm, so that a block keeps its own
when another is taken out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.lab.parts.cpu_kernels import RMSNormGrad, fits


class RMSNorm(nn.Module):
    """`gain * x / sqrt(mean(x^2) + eps)` over the last axis, one gain per channel (1910.07467, eq. 4)."""

    def __init__(self, width: int, eps: float, factor: float = 1.0):
        super().__init__()
        self.width, self.eps, self.factor = (width,), eps, factor
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        gain = self.weight if self.factor == 1 else self.weight * self.factor
        if fits(x, gain):
            return RMSNormGrad.apply(x, gain, self.eps)  # type: ignore[return-value]
        return functional.rms_norm(x, self.width, gain, self.eps)


class RMSNormSingle(nn.Module):
    """The same with one gain for all channels, which leaves no axis a place of its own (2410.17174, RMSNorm-S)."""

    def __init__(self, width: int, eps: float, factor: float = 1.0):
        super().__init__()
        self.width, self.eps, self.factor = (width,), eps, factor
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        gain = (self.weight * self.factor).expand(self.width)
        return functional.rms_norm(x, self.width, gain, self.eps)


class RMSNormPlain(nn.Module):
    """The same without a gain (called SRMSNorm elsewhere)."""

    def __init__(self, width: int, eps: float, factor: float = 1.0):
        super().__init__()
        self.width, self.eps, self.factor = (width,), eps, factor

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        out = functional.rms_norm(x, self.width, None, self.eps)
        return out if self.factor == 1 else out * self.factor


class LayerNorm(nn.LayerNorm):
    """torch's, with a factor."""

    def __init__(self, width: int, eps: float, factor: float = 1.0):
        super().__init__(width, eps)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """[..., d] to [..., d]."""
        gain, bias = self.weight * self.factor, self.bias * self.factor
        return functional.layer_norm(x, self.normalized_shape, gain, bias, self.eps)


class DynamicTanh(nn.Module):
    """`weight * tanh(alpha x) + bias`, alpha one number, 0.5 at the start (Zhu et al. 2503.10622, eq. 1)."""

    def __init__(self, width: int, eps: float, factor: float = 1.0):
        del eps  # has no statistic to guard
        super().__init__()
        self.factor = factor
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def reset(self, std: float) -> None:
        """alpha one half, no bias."""
        del std
        nn.init.constant_(self.alpha, 0.5)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        return (self.weight * torch.tanh(self.alpha * x) + self.bias) * self.factor


def make_norm(name: str, width: int, eps: float, factor: float = 1.0) -> nn.Module:
    """The norm called `name` in `parts.kinds.NORMS`."""
    kinds = {
        "rms": RMSNorm,
        "rms_single": RMSNormSingle,
        "rms_none": RMSNormPlain,
        "layer": LayerNorm,
        "tanh": DynamicTanh,
    }
    return kinds[name](width, eps, factor)
