"""Arms beside each other on the same task: SVF, LoRA, few weights, and the controls that say what training is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from superweights.adaptation.bench import ExpertBench
from superweights.adaptation.expert import random_like, shuffled
from superweights.adaptation.factors import Factors
from superweights.adaptation.learners import Learner, LowRank, Singular, Sparse, lora_like
from superweights.adaptation.manner import Manner
from superweights.adaptation.speaking import rewarded
from superweights.adaptation.supports import support
from superweights.adaptation.tasks import Reward, Task
from superweights.adaptation.trained import Base, Trained
from superweights.adaptation.training import Training, base_of
from superweights.address import Address
from superweights.errors import SuperweightsError
from superweights.record import Score

# The paper's LoRA has 6.8 million numbers where its SVF has 0.58 (Transformer², table 2).
_PAPER_RATIO = 6.8 / 0.58
# Arms of few weights, each of which may move by itself.
SINGLE = ("super", "largest", "smallest", "random")
TRAINED = ("svf", "lora", "lora-paper", *SINGLE)
CONTROLS = ("random-z", "shuffled-z")


@dataclass(frozen=True)
class Arms:
    """What is compared and where: the arms, the matrices, and the learning rate of each kind.

    Rates: `rate` for SVF (z has the size of 1), `lora_rate`, and `weight_rate` for single weights. `count` is how many
    weights the sparse arms may move; `addresses` are the super weights of the arm `super`.
    """

    arms: tuple[str, ...] = ("svf", "lora", "random-z", "shuffled-z")
    """Their names."""
    part: str = "mlp"
    """Which matrices: mlp, attention or both."""
    layers: tuple[int, ...] | None = None
    """Which layers; None: all."""
    rate: float = 2e-3
    lora_rate: float = 2e-3
    weight_rate: float = 2e-3
    addresses: tuple[Address, ...] = ()
    count: int | None = None

    def __post_init__(self) -> None:
        wrong = [arm for arm in self.arms if arm not in TRAINED + CONTROLS]
        if wrong or not self.arms:
            raise SuperweightsError(
                f"There is no arm called {(wrong or ['(none)'])[0]!r}.",
                hint=f"arms: {', '.join(TRAINED + CONTROLS)}.",
            )
        refuse_twice("The arm", self.arms)
        if set(self.arms) & set(CONTROLS) and "svf" not in self.arms:
            raise SuperweightsError("Random and shuffled z are controls of svf.", hint="add svf to the arms.")


def refuse_twice(what: str, names: Sequence[str]) -> None:
    """Raise `SuperweightsError` where a name stands twice among `names`."""
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise SuperweightsError(f"{what} {twice} is named twice.", hint="name each one once.")


@dataclass(frozen=True)
class Result:
    """One arm on one task with one seed: mean rewards on the test split of the base and of the arm.

    `parameters` is how many numbers were free, `best_step` the step that the validation split chose (0: the base).
    """

    task: str
    arm: str
    seed: int
    base: float
    """Mean reward of the base."""
    reward: float
    """Mean reward of the arm."""
    parameters: int
    best_step: int

    @property
    def gain(self) -> float:
        """How much the share of right answers rose (for rewards of -1 and 1)."""
        return (self.reward - self.base) / 2


class Run:
    """Arms on one task with one seed. `known` is what the base is rewarded there, before training and on the test."""

    def __init__(
        self,
        bench: ExpertBench,
        task: Task,
        seed: int,
        arms: Arms,
        judged: tuple[str, Reward],
        manner: Manner,
    ):
        self.bench, self.task, self.seed, self.arms = bench, task, seed, arms
        self.name, self.reward = judged
        self.manner = replace(manner, seed=seed)
        self.matrices = bench.matrices(arms.part, arms.layers)

    def known(self) -> tuple[Base, float]:
        """What every arm starts from."""
        bench = self.bench
        return base_of(bench.model, bench.reader, self.task, self.reward, self.manner), self._test()

    def results(self, known: tuple[Base, float]) -> Iterator[Result]:
        """The result of each arm, the controls of SVF after it."""
        start, base = known
        for arm in self.arms.arms:
            if arm in CONTROLS:
                continue
            with self._learner(arm) as (learner, rate):
                trained = self._trained(learner, rate, start)
                with learner.on():
                    reward = self._test()
            yield self._result(
                arm, base, reward, sum(p.numel() for p in learner.parameters.values()), trained
            )
            if arm == "svf":
                yield from self._controls(base, trained)

    def _controls(self, base: float, trained: Trained) -> Iterator[Result]:
        """Numbers as far from 1 as the trained ones at their last step, in no or another order."""
        for arm, made in (("random-z", random_like), ("shuffled-z", shuffled)):
            if arm in self.arms.arms:
                learner = Singular(self.bench.model, self._factors(), made(trained.numbers, self.seed))
                with learner.on():
                    yield self._result(arm, base, self._test(), 0, None)

    def _factors(self) -> dict[str, Factors]:
        return self.bench.factors(self.matrices)

    def _trained(self, learner: Learner, rate: float, start: Base) -> Trained:
        bench, manner = self.bench, replace(self.manner, rate=rate)
        training = Training(bench.model, bench.reader, self.task, learner, self.reward, manner, base=start)
        trained = training.run()
        with torch.no_grad():
            for name, parameter in learner.parameters.items():
                parameter.copy_(trained.numbers[name])
        return trained

    @contextmanager
    def _learner(self, arm: str) -> Iterator[tuple[Learner, float]]:
        model, arms = self.bench.model, self.arms
        if arm == "svf":
            yield Singular(model, self._factors()), arms.rate
        elif arm in ("lora", "lora-paper"):
            numbers = sum(map(len, self._factors().values())) * (_PAPER_RATIO if arm == "lora-paper" else 1)
            paths, rank = lora_like(self.matrices, round(numbers))
            low = LowRank(model, paths, rank, seed=self.seed)
            try:
                yield low, arms.lora_rate
            finally:
                low.close()
        else:
            count = arms.count or len(arms.addresses)
            yield Sparse(model, self._support(arm, count)), arms.weight_rate

    def _support(self, arm: str, count: int) -> dict[str, Tensor]:
        return support(
            self.bench.model, self.matrices, arm, count, addresses=self.arms.addresses, seed=self.seed
        )

    def _test(self) -> float:
        bench = self.bench
        return rewarded(bench.model, bench.reader, self.task, self.task.test, self.reward).mean().item()

    def _result(
        self, arm: str, base: float, reward: float, parameters: int, trained: Trained | None
    ) -> Result:
        best = trained.best_step if trained is not None else 0
        return Result(self.name, arm, self.seed, base, reward, parameters, best)


def gains(results: Sequence[Result]) -> list[tuple[str, str, Score, Score]]:
    """(task, arm, share of right answers, its rise over the base) with standard errors over seeds, in order."""
    found = []
    for key in dict.fromkeys((r.task, r.arm) for r in results):
        rows = [r for r in results if (r.task, r.arm) == key]
        share = [(1 + r.reward) / 2 for r in rows]
        found.append((*key, over_seeds("right", share), over_seeds("gain", [r.gain for r in rows])))
    return found


def over_seeds(name: str, values: Sequence[float]) -> Score:
    """The mean over seeds, with its standard error (None for one seed). For an interval take Student's t: few seeds."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Score(name, mean, "of answers", len(values))
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Score(name, mean, "of answers", len(values), math.sqrt(variance / len(values)))
