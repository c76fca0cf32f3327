"""Dynamics that we planted: why squared error sits between two answers, and a denoiser does not.

`x' = A x` with a rotation A has one answer, and both predict it. `x' = A x + 3 s e_1` with a fair coin s has two: the
mean, which squared error finds, is neither (arXiv 2412.08821, section 2.3, argues so; this is the argument with the
answer known). No encoder, no text, seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superweights.lab.concepts.layers import TimestepEncoder
from superweights.lab.concepts.noise import Guidance, NoiseSchedule, sample
from superweights.lab.designs.fitting import Schedule, fit

_WIDTH = 8


@dataclass(frozen=True)
class Planted:
    """`step [8, 8]` is the rotation; `jump` how far the two branches are from the middle, 0 for none."""

    step: Tensor
    jump: float

    @classmethod
    def drawn(cls, seed: int, jump: float) -> Planted:
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.linalg.qr(torch.randn(_WIDTH, _WIDTH, generator=generator)).Q, jump)

    def pairs(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` states and what follows each."""
        x = torch.randn(n, _WIDTH, generator=generator)
        after = x @ self.step.T
        coin = torch.randint(2, (n,), generator=generator) * 2 - 1
        after[:, 0] += self.jump * coin
        return x, after

    def to_branch(self, x: Tensor, found: Tensor) -> tuple[float, float]:
        """The mean distance of `found` to the nearer branch over the jump (root mean square), and the share above."""
        middle = x @ self.step.T
        side = (found - middle)[:, 0].sign()
        nearest = middle.clone()
        nearest[:, 0] += self.jump * side
        distance = (found - nearest).square().sum(-1).mean().sqrt()
        return float(distance) / self.jump, float((side > 0).float().mean())


class Guess(nn.Module):
    """The next state by squared error: a network of three layers of 128."""

    def __init__(self) -> None:
        super().__init__()
        self.network = _network(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class Denoise(nn.Module):
    """The next state out of noise, by the same network, which also sees the noisy state and the time."""

    def __init__(self, schedule: NoiseSchedule):
        super().__init__()
        self.schedule, self.time = schedule, TimestepEncoder(16, 32)
        self.network = _network(2 * _WIDTH + 16)

    def forward(self, noisy: Tensor, t: Tensor, x: Tensor) -> Tensor:
        return self.network(torch.cat([noisy, x, self.time(t)], -1))

    @torch.no_grad()
    def drawn(self, x: Tensor, guidance: Guidance, generator: torch.Generator) -> Tensor:
        """A next state for each of `x`."""
        noise = torch.randn(x.shape, generator=generator)
        return sample(lambda n, t, _: self(n, torch.full((len(n),), t), x), noise, self.schedule, guidance)


def learned(planted: Planted, steps: int, seed: int, scale: float) -> tuple[Guess, Denoise]:
    """Both models after so many steps of 256 pairs. `scale` is what states are divided by before the noise."""
    torch.manual_seed(seed)
    guess, denoise = Guess(), Denoise(NoiseSchedule())
    generator = torch.Generator().manual_seed(seed)
    plan = Schedule(steps, 3e-3, decay=0.0)

    def by_squares(step: int) -> Tensor:
        x, after = planted.pairs(256, generator)
        return (guess(x) - after / scale).square().sum(-1).mean()

    def by_noise(step: int) -> Tensor:
        x, after = planted.pairs(256, generator)
        t = torch.randint(denoise.schedule.length, (256,), generator=generator)
        noisy = denoise.schedule.add_noise(after / scale, torch.randn(after.shape, generator=generator), t)
        return (denoise(noisy, t, x) - after / scale).square().sum(-1).mean()

    fit(guess, by_squares, plan)
    fit(denoise, by_noise, plan)
    return guess, denoise


def _network(inputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, 128, 128):
        layers += [nn.Linear(width, 128), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(128, _WIDTH))
