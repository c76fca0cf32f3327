"""A suite: a control, and arms that each differ from it, or from another arm, in one dial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from superweights.errors import SuperweightsError
from superweights.lab.recipe import Recipe

Phenomenon = Literal["sink", "outliers"]
CONTROL = "control"
# What the short version of a suite keeps: these arms where it has them, else so many of the first.
_QUICK, _FEW = ("softmax1", "softpick", "rectified"), 2


@dataclass(frozen=True)
class Sign:
    """A claim that is no prevention: a number of the profile goes up, or down, against another arm."""

    measure: str
    """The field of `lab.profile.Profile`."""
    goes: Literal["up", "down"]
    """Where its source says that it goes."""
    claim: str
    """The source's own numbers, in words."""
    against: str = CONTROL
    """The arm that it is held against, seed by seed."""


@dataclass(frozen=True)
class Arm:
    """One design: recipe `of`, the control or another arm, with `dial` turned to `value`.

    `prevents` is what its source says it prevents. `negative`: a control that must prevent nothing. `matched`: nothing
    but parameters is added, so that designs which add as many have something to be held against. `rates` are the
    learning rates it is tried at: three or more where the optimizer is another one, none where it is the control's.
    `claim` is the source's own number, in words, and `signs` are further claims. A signed permutation needs no row: it
    is the control to the bit.
    """

    name: str
    """What it is called."""
    dial: str
    value: Any
    about: str
    """What it is, in a line."""
    source: str
    of: str = CONTROL
    prevents: tuple[Phenomenon, ...] = ()
    negative: bool = False
    matched: bool = False
    rates: tuple[float, ...] = ()
    claim: str = ""
    signs: tuple[Sign, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run of a suite: an arm at a learning rate and a seed."""

    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """The folder of the run, inside the suite's."""
        return f"{self.arm}/rate-{self.rate:g}-seed-{self.seed}"


@dataclass(frozen=True)
class Suite:
    """A control recipe, its arms, the seeds of all of them, and the control's own learning rates."""

    name: str
    """What it is called."""
    about: str
    """What it is for, in a line."""
    control: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = ()

    def arm(self, name: str) -> Arm | None:
        """The arm of this name; None for the control. Raises `SuperweightsError` for any other."""
        found = next((arm for arm in self.arms if arm.name == name), None)
        if found is None and name != CONTROL:
            known = [CONTROL, *(arm.name for arm in self.arms)]
            raise SuperweightsError(f"{self.name} has no arm {name!r}.", hint=f"it has {', '.join(known)}.")
        return found

    def recipe(self, name: str) -> Recipe:
        """The recipe of an arm."""
        arm = self.arm(name)
        base = self.control if arm is None else self.recipe(arm.of).with_(arm.dial, arm.value)
        return replace(base, name=name)

    def rates_of(self, name: str) -> tuple[float, ...]:
        """The learning rates an arm is tried at: its row, or its recipe's own alone; the control at both."""
        arm = self.arm(name)
        own = self.recipe(name).optimizer.learning_rate
        if arm is not None:
            return arm.rates or (own,)
        return (own, *(rate for rate in self.rates if rate != own))

    def cell_recipe(self, cell: Cell) -> Recipe:
        """The recipe of one run."""
        made = self.recipe(cell.arm).with_("optimizer.learning_rate", cell.rate)
        return made.with_("seed", cell.seed)

    @property
    def names(self) -> tuple[str, ...]:
        """The control and every arm."""
        return (CONTROL, *(arm.name for arm in self.arms))

    def quick(self) -> Suite:
        """The same, small enough to try whether everything works: few steps, one seed, one learning rate, a few arms.

        Its verdicts are all *inconclusive*: they need three seeds.
        """
        schedule = replace(self.control.schedule, steps=16, measure_every=8, held_out=16, log_every=6)
        some = [arm for arm in self.arms if arm.name in _QUICK] or self.arms[:_FEW]
        kept = tuple(replace(arm, rates=()) for arm in some)
        return replace(
            self, control=replace(self.control, schedule=schedule), arms=kept, seeds=(0,), rates=()
        )
