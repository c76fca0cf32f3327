"""Controls: another change that does the same damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.scoring.loss import loss_per_window
from superweights.scoring.predictions import Variant


@dataclass(frozen=True, eq=False)
class Matched:
    """A control at the strength that damages as much: `loss` in nats per token, near the target."""

    variant: Variant
    """The edits that do the damage."""
    strength: float
    """How strong they are, as `at_strength` counts it."""
    loss: float


def match_damage(
    at_strength: Callable[[float], Variant],
    windows: Int[Tensor, "n length"],
    loss: float,
    *,
    tolerance: float = 0.05,
    most: int = 20,
    batch_size: int | None = None,
) -> Matched:
    """The control `at_strength(s)`, 0 < s <= 1, whose loss on `windows` is `loss` (nats per token).

    Found by halving the interval, until within `tolerance` nats. For telling what a change does from what
    any equally broken model does: whatever shows in both (more frequent words, say) is damage, not mechanism.

    Raises `SuperweightsError` when full strength damages too little, or `most` trials find no match.
    """
    low, high, strength = 0.0, 1.0, 1.0
    for _ in range(most):
        variant = at_strength(strength)
        found = loss_per_window(variant, windows, batch_size=batch_size).mean().item()
        if abs(found - loss) <= tolerance:
            return Matched(variant, strength, found)
        if found < loss and strength == 1.0:
            break
        low, high = (strength, high) if found < loss else (low, strength)
        strength = (low + high) / 2
    raise SuperweightsError(
        f"No strength of the control has a loss of {loss:.4g} nats; the last, {strength:.4g}, has {found:.4g}.",
        hint="choose a control that can do more damage, or allow a larger tolerance.",
    )
