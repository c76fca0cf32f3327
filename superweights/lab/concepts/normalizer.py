"""Vectors brought to a common scale: each dimension less its median, over its interquartile range.

Source: arXiv 2412.08821, section 2.1. Where we differ: the released code gives scikit-learn's `RobustScaler` the
quantiles (0.25, 0.75), which it reads as percent; meant are 25 and 75. Harmless on Gaussian data, badly wrong on heavy
tails. Dimensions that never vary get a floor instead of a scale of zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError

# The interquartile range of a Gaussian is this many standard deviations.
_GAUSSIAN = 1.3489795003921634
# A dimension's scale is at least this share of the median one.
_FLOOR = 1e-3


class ConceptNormalizer(nn.Module):
    """`normalize` and its inverse `denormalize`, `[..., C]` both; `center` and `scale` `[C]` are buffers."""

    def __init__(self, width: int):
        super().__init__()
        self.center: Tensor
        self.scale: Tensor
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, vectors: Tensor) -> ConceptNormalizer:
        """Take center and scale from training vectors `[n, C]`; returns itself.

        Raises `SuperweightsError` for fewer than two vectors, NaN, or vectors that are all the same.
        """
        if vectors.dim() != 2 or len(vectors) < 2 or vectors.shape[1] != len(self.center):
            raise SuperweightsError(
                f"A normaliser of {len(self.center)} dimensions cannot be fitted to {list(vectors.shape)}.",
                hint="give two vectors or more, one a row.",
            )
        if not bool(torch.isfinite(vectors).all()):
            raise SuperweightsError("The vectors hold NaN or infinity.", hint="check the encoder.")
        low, middle, high = (torch.quantile(vectors.double(), q, dim=0) for q in (0.25, 0.5, 0.75))
        scale = (high - low) / _GAUSSIAN
        floor = _FLOOR * float(scale.median())
        if floor <= 0:
            raise SuperweightsError(
                "More than half of the dimensions never vary, so there is no scale.",
                hint="give other vectors.",
            )
        self.center.copy_(middle)
        self.scale.copy_(scale.clamp_min(floor))
        return self

    def normalize(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.scale

    def denormalize(self, x: Tensor) -> Tensor:
        return x * self.scale + self.center


def dead_dimensions(vectors: Tensor) -> Tensor:
    """The dimensions of `[n, C]` that never vary (standard deviation under 1e-7 of the median one)."""
    spread = vectors.double().std(0)
    return (spread < 1e-7 * spread.median().clamp_min(1e-30)).nonzero().flatten()
