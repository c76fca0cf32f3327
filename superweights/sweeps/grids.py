"""The usual grids by name, for an open checkpoint and its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.sweeps.controls import plan_controls
from superweights.sweeps.plans import (
    COUNTS,
    SCALES,
    Point,
    even_steps,
    plan_all,
    plan_each,
    plan_pairs,
    plan_scale,
)

GRIDS = ("scale", "each", "pairs", "all", "controls")


@dataclass(frozen=True)
class Grids:
    """Which grids are measured. Raises `SuperweightsError` for a name that is none, and for a curve of one point."""

    names: Sequence[str] = ("scale",)
    """Of `GRIDS`; points that several have are measured once."""
    steps: int | None = None
    """Points of a scaling curve, evenly from 0 to 3; None: the published curve's."""
    counts: Sequence[int] = COUNTS
    """How many other weights the controls remove."""
    seed: int = 0
    """Of the controls' draws."""

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in GRIDS:
                raise SuperweightsError(
                    f"There is no grid called {name!r}.", hint=f"choose from {', '.join(GRIDS)}."
                )
        if self.steps is not None:
            even_steps(self.steps)

    def points(self, checkpoint: Checkpoint, weights: Sequence[Address]) -> list[Point]:
        """The points of all grids over `weights`, each once."""
        factors = even_steps(self.steps) if self.steps else SCALES
        plans: dict[str, Callable[[], list[Point]]] = {
            "scale": lambda: plan_scale(weights, factors),
            "each": lambda: plan_each(weights),
            "pairs": lambda: plan_pairs(weights),
            "all": lambda: plan_all(weights),
            "controls": lambda: [
                *plan_all(weights),
                *plan_controls(checkpoint, weights, self.counts, self.seed),
            ],
        }
        return list(dict.fromkeys(point for name in self.names for point in plans[name]()))
