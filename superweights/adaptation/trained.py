"""What a training found: the best numbers, each step and each look on the way there, and why it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Base:
    """What a model is rewarded before training."""

    valid: float
    """Mean reward on the validation split."""
    seen: tuple[float, ...] = ()
    """The different rewards of the first training prompts, in order, where training learns from such rewards: one
    alone says that there is nothing to learn."""


@dataclass(frozen=True)
class Step:
    """One step: its number, the mean reward of its batch (nan for supervised), loss, and KL in nats per completion."""

    step: int
    reward: float
    loss: float
    kl: float
    """KL from the base; 0 where it has no weight."""
    same: bool = False
    """Whether every reward of its batch was the same (never where they are not asked for)."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What training found: the best numbers by the validation split, and the way there.

    `base` and `best` are mean rewards on the validation split before training and at `best_step` (0: nothing was
    better than the base, and `numbers` are the ones training started from). `checks` holds (step, mean reward).
    """

    numbers: dict[str, Tensor]
    base: float
    best: float
    best_step: int
    steps: tuple[Step, ...]
    """What each update saw."""
    checks: tuple[tuple[int, float], ...]
    ended: str = ""
    """Why it ended, in a sentence."""
    notes: tuple[str, ...] = ()
    """What the reader should know."""

    def to_json(self) -> dict[str, Any]:
        """All but the numbers, as JSON values."""
        return {
            "valid_reward_before": self.base,
            "valid_reward": self.best,
            "best_step": self.best_step,
            "steps": [asdict(step) for step in self.steps],
            "checks": [list(check) for check in self.checks],
            "ended": self.ended,
            "notes": list(self.notes),
        }
