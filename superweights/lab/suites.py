"""Named suites: a control, and arms that each differ from it, or from another arm, in one dial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from superweights.errors import SuperweightsError
from superweights.lab.architecture import Architecture
from superweights.lab.optimizers.spec import OptimizerSpec
from superweights.lab.recipe import Recipe

Phenomenon = Literal["sink", "outliers"]
CONTROL = "control"
_OPTIMIZER = "optimizer.name"


@dataclass(frozen=True)
class Arm:
    """One design: recipe `of`, the control or another arm, with `dial` turned to `value`.

    `prevents` is what its source says it prevents. `negative`: a control that must prevent nothing. `matched`: nothing
    but parameters is added, so that designs which add as many have something to be held against. `rates` are the
    learning rates it is tried at: three or more where the optimizer is another one, none where it is the control's.
    `claim` is the source's own number, in words. A signed permutation needs no row: it is the control to the bit.
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
        """The same, small enough to try whether everything works: few steps, one seed, one learning rate, four arms.

        Its verdicts are all *inconclusive*: they need three seeds.
        """
        schedule = replace(self.control.schedule, steps=16, measure_every=8, held_out=16, log_every=6)
        kept = tuple(replace(arm, rates=()) for arm in self.arms if arm.name in _QUICK)
        return replace(
            self, control=replace(self.control, schedule=schedule), arms=kept, seeds=(0,), rates=()
        )


_QUICK = ("softmax1", "softpick", "rectified")


def _attention(name: str, about: str, source: str, **more: Any) -> Arm:
    return Arm(name, "architecture.attention", name, about, source, **more)


def _gate(kind: str, about: str, **more: Any) -> Arm:
    return Arm(f"gate_{kind}", "architecture.gate", kind, about, "Qiu et al. 2505.06708", **more)


def _optimizer(name: str, about: str, source: str, rates: tuple[float, ...], **more: Any) -> Arm:
    return Arm(name, _OPTIMIZER, name, about, source, rates=rates, **more)


_GU = "Gu et al. 2410.10781"
_KAUL = "Kaul et al. 2410.17174"
_SOFTPICK = "Zuhri et al. 2504.20966"
_RATE = 6e-3
_ADAM_RATES = (3e-3, _RATE, 1.2e-2)
_NULL = ("sink",)

_ATTENTION_ARMS = (
    _attention("softmax1", "softmax with one more logit, 0, that leads nowhere", _KAUL, prevents=_NULL,
               claim="first-token attention 65 % -> 3.3 % (with OrthoAdam); in Zuhri et al. sink rate 34.9 -> 16.4 %"),
    _attention("sink_logit", "the same with a learned logit for each head", "gpt-oss", prevents=_NULL,
               claim="in Zuhri et al. sink rate 34.9 -> 8.8 %"),
    _attention("k_bias", "the same with a learned key for each head", _GU, prevents=_NULL,
               claim="sink rate on token 0 18.2 -> 0.0 %"),
    _attention("sigmoid", "sigmoid attention, not normalised", _GU, prevents=_NULL,
               claim="sink rate 18.2 -> 0.4 % (proxy)"),
    _attention("softpick", "rectified softmax", _SOFTPICK, prevents=("sink", "outliers"),
               claim="sink rate 63.4 -> 0.0 %; kurtosis_flat 33,510 -> 341"),
    _gate("element", "heads' outputs gated number by number", prevents=("sink", "outliers"),
          claim="attention on token 0 46.7 -> 4.8 %; largest activation 1053 -> 94"),
    _gate("head", "heads' outputs gated head by head", prevents=("sink", "outliers"),
          claim="attention on token 0 46.7 -> 7.3 %; largest activation 1053 -> 98"),
    _attention("differential_v2", "two softmax maps subtracted", "Differential Transformer V2 (unilm)",
               prevents=("outliers",), claim="lower activation outliers (no table)"),
    # A wider MLP: as many parameters as an element-wise gate or the second query heads add.
    Arm("wider", "architecture.inner", 197, "the control with a wider MLP", "ours: equal parameters", matched=True),
    _attention("rectified", "rectified softmax that still sums to one", _SOFTPICK, negative=True,
               claim="sink rate 34.9 -> 25.6 %: still there"),
    _attention("sigmoid_normalized", "sigmoid attention over its sum", _GU, negative=True,
               claim="sink rate 18.2 -> 30.2 %"),
    _attention("v_bias", "a learned vector added to each head's output", _GU, negative=True),
    _gate("ns", "a gate that never closes", negative=True,
          claim="attention on token 0 46.7 -> 45.1 %; largest activation 1053 -> 892"),
    _gate("static", "a gate that does not see the input", negative=True,
          claim="attention on token 0 46.7 -> 36.4 %; largest activation 1053 -> 471"),
)  # fmt: skip

_OPTIMIZER_ARMS = (
    _optimizer("orthoadam", "Adam's moments in a fixed random basis (kron)", _KAUL, _ADAM_RATES,
               prevents=("outliers",), claim="kurtosis 1657 -> 3.1 (with softmax-1 and one gain)"),
    Arm("orthoadam_one_gain", "architecture.norm", "rms_single", "OrthoAdam with one gain in each norm", _KAUL,
        of="orthoadam", prevents=("outliers",), rates=_ADAM_RATES,
        claim="kurtosis 188.4 with LayerNorm, 3.0 with one gain"),
    _optimizer("soap", "Adam in the eigenbasis of Shampoo", "He et al. 2405.19279", _ADAM_RATES,
               prevents=("outliers",), claim="lower kurtosis with Pre-Norm too (no table read)"),
    _optimizer("sgd", "stochastic gradient descent with momentum", "Guo et al. 2410.13835", (0.03, 0.1, 0.3),
               prevents=("outliers",), claim="residual peaks go, sinks stay"),
    Arm("signed_permutation", "optimizer.rotation", "signed_permutation", "OrthoAdam by a signed permutation: AdamW",
        "ours: a public re-implementation does this", of="orthoadam", negative=True),
)  # fmt: skip

PREVENTION = Suite(
    "prevention",
    "sinks and outliers on testbed A: nineteen designs beside a small Llama",
    Recipe(architecture=Architecture(layers=3), optimizer=OptimizerSpec(learning_rate=_RATE)),
    (*_ATTENTION_ARMS, *_OPTIMIZER_ARMS),
    rates=_ADAM_RATES,
)

SUITES: Mapping[str, Suite] = {PREVENTION.name: PREVENTION}


def suite_named(name: str) -> Suite:
    """The suite of this name. Raises `SuperweightsError` with the list for any other."""
    if name not in SUITES:
        raise SuperweightsError(f"There is no suite {name!r}.", hint=f"there is {', '.join(SUITES)}.")
    return SUITES[name]


def recipe_named(name: str) -> Recipe:
    """The recipe of an arm of some suite, by the arm's name. Raises `SuperweightsError` with the list."""
    for suite in SUITES.values():
        if name in suite.names:
            return suite.recipe(name)
    known = sorted({arm for suite in SUITES.values() for arm in suite.names})
    raise SuperweightsError(
        f"There is no recipe {name!r}.", hint=f"give a TOML file, or one of {', '.join(known)}."
    )
