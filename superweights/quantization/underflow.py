"""What one large weight does to the small ones of its tensor where scales have few exponents.

NVFP4 stores blocks of 16 weights in E2M1 (largest 6) with an E4M3 scale each (largest 448) and one fp32 scale a
tensor, chosen so that the largest block fits; FP8 has one scale a tensor. The larger the largest weight, the more
blocks fall below the smallest scale, 2^-9. Source: NVIDIA's recipe for NVFP4 (arXiv 2509.25149); the shares are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.axes import Float

_BLOCK, _E2M1, _E4M3, _NORMAL = 16, 6.0, 448.0, 2.0**-6


@dataclass(frozen=True)
class Lost:
    """Shares: blocks whose scale is 0 or a subnormal, and weights (other than 0) that round to 0 in FP8."""

    blocks_zero: float
    """Blocks with a scale of 0, of those that hold anything."""
    blocks_subnormal: float
    """Blocks with a subnormal scale, of the same."""
    weights_zero: float
    """Weights that become 0, of those that are not."""


def lost(weight: Float[Tensor, "... inputs"]) -> Lost:
    """What rounding the scales of `weight [..., in]` would lose; blocks run along the last axis, padded with 0."""
    flat = weight.detach().float().reshape(-1, weight.shape[-1])
    largest = flat.abs().max()
    if not float(largest) > 0:
        return Lost(0.0, 0.0, 0.0)
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % _BLOCK))
    tops = padded.view(len(flat), -1, _BLOCK).abs().amax(-1)
    scales = (tops / _E2M1) / (largest / (_E2M1 * _E4M3))
    stored = scales.to(torch.float8_e4m3fn).float()
    used = tops > 0
    zero = (stored == 0) & used
    subnormal = (stored > 0) & (stored < _NORMAL) & used
    weights = (flat / (largest / _E4M3)).to(torch.float8_e4m3fn).float()
    nonzero = flat != 0
    gone = ((weights == 0) & nonzero).sum() / nonzero.sum()
    return Lost(float(zero.sum() / used.sum()), float(subnormal.sum() / used.sum()), float(gone))
