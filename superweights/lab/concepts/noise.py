"""Noise schedules and the deterministic sampler that undoes them.

Variance preserving, `x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) eps`, rescaled so that the last step is pure noise (arXiv
2412.08821, section 2.3.2; Lin et al. 2305.08891). Steps are spaced `trailing`, computed in floating point: the
released code takes an integer range and silently runs 50 steps where 40 are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from superweights.errors import SuperweightsError

Kind = Literal["cosine", "sigmoid", "quadratic"]
# (noisy vectors [..., C], step, conditional?) -> the vectors without noise [..., C]
Denoiser = Callable[[Tensor, int, bool], Tensor]


@dataclass(frozen=True)
class NoiseSchedule:
    """`alpha_bar [T]` of a kind; `gamma` and `delta` are of `sigmoid`, `first` and `last` of `quadratic`."""

    kind: Kind = "cosine"
    length: int = 100
    """How many steps T there are."""
    gamma: float = 3.5
    delta: float = 0.0
    first: float = 0.001
    last: float = 0.0012
    alpha_bar: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "sigmoid", "quadratic") or self.length < 2:
            raise SuperweightsError(
                f"No schedule {self.kind!r} of {self.length} steps.",
                hint="choose cosine, sigmoid or quadratic, and 2 steps or more.",
            )
        object.__setattr__(self, "alpha_bar", _rescaled(self._betas()).float())

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`x_t` of `x [..., C]` at steps `t [...]`."""
        kept = self.alpha_bar.to(x.device)[t][..., None]
        return kept.sqrt() * x + (1 - kept).sqrt() * noise

    def noise_from(self, x_t: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise that makes `x_t` of `x`; the inverse of `add_noise`."""
        kept = self.alpha_bar.to(x.device)[t][..., None]
        return (x_t - kept.sqrt() * x) / (1 - kept).sqrt().clamp_min(1e-12)

    def steps(self, count: int) -> list[int]:
        """`count` steps from the last one down. Raises `SuperweightsError` for more than there are, or none."""
        if not 1 <= count <= self.length:
            raise SuperweightsError(
                f"{count} steps cannot be taken of {self.length}.", hint=f"choose 1 to {self.length}."
            )
        return [round(self.length - i * self.length / count) - 1 for i in range(count)]

    def _betas(self) -> Tensor:
        # On the processor whatever the default device: transformers builds models on one that holds no numbers.
        t = torch.linspace(0, 1, self.length + 1, dtype=torch.float64, device="cpu")
        if self.kind == "quadratic":
            share = torch.arange(self.length, dtype=torch.float64, device="cpu") / self.length
            return (math.sqrt(self.first) + share * (math.sqrt(self.last) - math.sqrt(self.first))).square()
        if self.kind == "cosine":
            kept = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
        else:
            kept = torch.sigmoid(self.delta - self.gamma * torch.logit(t))
        return (1 - kept[1:] / kept[:-1]).clamp_max(0.999)


@dataclass(frozen=True)
class Guidance:
    """How a sample is drawn: `steps`; `scale` of classifier-free guidance (1: none); `rescale`, how far the noise keeps
    the conditional one's standard deviation; `sigma`, the size of the first noise; `epsilon`, by which each noise is
    divided (the exposure-bias correction of 2308.15321)."""

    steps: int = 40
    scale: float = 1.0
    rescale: float = 0.7
    sigma: float = 0.6
    epsilon: float = 1.00045


def sample(denoiser: Denoiser, noise: Tensor, schedule: NoiseSchedule, guidance: Guidance) -> Tensor:
    """Vectors `[..., C]` from standard noise of that shape, all rows at once: DDIM with eta 0 and x0-prediction.

    The last prediction of x0 is what comes out. In the first step, where nothing but noise is left, guidance would
    divide by zero: the conditional prediction is taken.
    """
    x, found = noise * guidance.sigma, noise
    steps = schedule.steps(guidance.steps)
    for place, t in enumerate(steps):
        found = denoiser(x, t, True)
        kept = float(schedule.alpha_bar[t])
        noise_t = _noise(x, found, kept)
        if guidance.scale != 1.0 and kept > 0:
            without = _noise(x, denoiser(x, t, False), kept)
            noise_t = guided(noise_t, without, guidance.scale, guidance.rescale)
            found = (x - math.sqrt(1 - kept) * noise_t) / math.sqrt(kept)
        if place + 1 < len(steps):
            after = float(schedule.alpha_bar[steps[place + 1]])
            x = math.sqrt(after) * found + math.sqrt(1 - after) * noise_t / guidance.epsilon
    return found


def guided(conditional: Tensor, without: Tensor, scale: float, rescale: float) -> Tensor:
    """`u + scale (c - u)`, brought `rescale` of the way to the standard deviation of `c` (each vector's own)."""
    mixed = without + scale * (conditional - without)
    ratio = conditional.std(-1, keepdim=True) / mixed.std(-1, keepdim=True).clamp_min(1e-12)
    return mixed * (rescale * ratio + (1 - rescale))


def _noise(x: Tensor, found: Tensor, kept: float) -> Tensor:
    return (x - math.sqrt(kept) * found) / math.sqrt(max(1 - kept, 1e-12))


def _rescaled(betas: Tensor) -> Tensor:
    """Products of 1 - beta, shifted and scaled so that the last is 0 and the first stays."""
    root = torch.cumprod(1 - betas, 0).sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
