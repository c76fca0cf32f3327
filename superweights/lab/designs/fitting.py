"""The one loop in which the arms of these experiments are trained: AdamW, warm-up, cosine to a tenth, clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Loss = Callable[[int], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `steps`, the largest learning rate, the share of warm-up, weight decay, clipping."""

    steps: int
    rate: float = 3e-3
    warm_up: float = 0.05
    """The share of steps in which the rate rises."""
    decay: float = 0.1
    clip: float = 1.0
    """The largest norm of the gradient."""
    epsilon: float = 1e-8
    """AdamW's."""

    def factor(self, step: int) -> float:
        """The learning rate's share at `step`: up in a line, down by a cosine to a tenth."""
        warm = max(1, int(self.warm_up * self.steps))
        if step < warm:
            return (step + 1) / warm
        along = (step - warm) / max(1, self.steps - warm)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * along))


def optimizer_of(parameters: Iterable[nn.Parameter], schedule: Schedule) -> torch.optim.AdamW:
    """AdamW 0.9 / 0.95, matrices with weight decay."""
    held = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in held if p.dim() > 1], "weight_decay": schedule.decay},
        {"params": [p for p in held if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, schedule.rate, betas=(0.9, 0.95), eps=schedule.epsilon, fused=True)


def fit(
    model: nn.Module,
    loss_of: Loss,
    schedule: Schedule,
    *,
    at: dict[int, Callable[[], None]] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Train `model` in place by `loss_of(step)`; `at[step]()` is called after so many steps, 0 before the first."""
    model.train()
    optimizer = optimizer or optimizer_of(model.parameters(), schedule)
    for step in range(schedule.steps):
        _call(model, at, step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * schedule.factor(step)
        optimizer.zero_grad()
        loss_of(step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
    _call(model, at, schedule.steps)
    model.eval()


def _call(model: nn.Module, at: dict[int, Callable[[], None]] | None, step: int) -> None:
    if at and step in at:
        model.eval()
        at[step]()
        model.train()
