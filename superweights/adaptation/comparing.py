"""Arms beside each other on the same task: SVF, LoRA, few weights, and the controls that say what training is worth."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superweights.adaptation.bench import ExpertBench
from superweights.adaptation.expert import random_like, shuffled
from superweights.adaptation.factors import Factors
from superweights.adaptation.learners import Learner, LowRank, Singular, Sparse, lora_like
from superweights.adaptation.manner import Manner
from superweights.adaptation.matrices import Matrix
from superweights.adaptation.speaking import rewarded
from superweights.adaptation.supports import support
from superweights.adaptation.tasks import Reward, Task
from superweights.adaptation.trained import Trained
from superweights.adaptation.training import Training
from superweights.address import Address
from superweights.artefacts.disk import explained
from superweights.artefacts.file import write_text
from superweights.artefacts.reading import parse_json, read_text
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.record import Score

# The paper's LoRA has 6.8 million numbers where its SVF has 0.58 (Transformer², table 2).
_PAPER_RATIO = 6.8 / 0.58
TRAINED = ("svf", "lora", "lora-paper", "super", "largest", "smallest", "random")
CONTROLS = ("random-z", "shuffled-z")
_WITH_SVF = ("svf", *CONTROLS)
# How a line of kept results begins.
_BEGIN = '{"task": "'


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
        if set(self.arms) & set(CONTROLS) and "svf" not in self.arms:
            raise SuperweightsError("Random and shuffled z are controls of svf.", hint="add svf to the arms.")


@dataclass(frozen=True)
class Result:
    """One arm on one task with one seed: mean rewards on the test split of the base and of the arm.

    `parameters` is how many numbers were free, `best_step` the step that the validation split chose (0: the base).
    `under` is a hash of all that it was made under: model, manner, matrices, rates.
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
    under: str = ""

    @property
    def gain(self) -> float:
        """How much the share of right answers rose (for rewards of -1 and 1)."""
        return (self.reward - self.base) / 2


def compare(
    bench: ExpertBench,
    tasks: Callable[[str, int], Task],
    names: Sequence[str],
    seeds: Sequence[int],
    arms: Arms,
    reward: Reward,
    manner: Manner,
    kept: Path | None = None,
) -> list[Result]:
    """The result of every arm on every task with every seed: 5 seeds of a task are 5 splits of it.

    Each result is appended to the file `kept` as it is there, and those that it holds already, made under the same
    circumstances, are not run again.
    """
    under = _circumstances(bench, arms, manner)
    matrices = bench.matrices(arms.part, arms.layers)
    factors = bench.factors(matrices)
    found = [result for result in _held(kept) if result.under == under and result.arm in arms.arms]
    found = [result for result in found if result.task in names and result.seed in seeds]
    known = {(r.task, r.arm, r.seed) for r in found}
    runs = [(name, seed) for name in names for seed in seeds]
    for done, (name, seed) in enumerate(runs):
        bench.progress(name, done, len(runs))
        if all((name, arm, seed) in known for arm in arms.arms):
            continue
        one = _Run(
            bench, name, tasks(name, seed), seed, arms, matrices, factors, reward, replace(manner, seed=seed)
        )
        for result in one.results():
            if (name, result.arm, seed) not in known:
                found.append(replace(result, under=under))
                _keep(kept, found[-1])
    return found


class _Run:
    """All arms on one task with one seed."""

    def __init__(
        self,
        bench: ExpertBench,
        name: str,
        task: Task,
        seed: int,
        arms: Arms,
        matrices: Sequence[Matrix],
        factors: dict[str, Factors],
        reward: Reward,
        manner: Manner,
    ):
        self.bench, self.name, self.task, self.seed, self.arms = bench, name, task, seed, arms
        self.matrices, self.factors, self.reward, self.manner = matrices, factors, reward, manner

    def results(self) -> Iterator[Result]:
        base = self._test()
        for arm in self.arms.arms:
            if arm in CONTROLS:
                continue
            with self._learner(arm) as (learner, rate):
                trained = self._trained(learner, rate)
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
                learner = Singular(self.bench.model, self.factors, made(trained.numbers, self.seed))
                with learner.on():
                    yield self._result(arm, base, self._test(), 0, None)

    def _trained(self, learner: Learner, rate: float) -> Trained:
        bench, manner = self.bench, replace(self.manner, rate=rate)
        trained = Training(bench.model, bench.reader, self.task, learner, self.reward, manner).run()
        with torch.no_grad():
            for name, parameter in learner.parameters.items():
                parameter.copy_(trained.numbers[name])
        return trained

    @contextmanager
    def _learner(self, arm: str) -> Iterator[tuple[Learner, float]]:
        model, arms = self.bench.model, self.arms
        if arm == "svf":
            yield Singular(model, self.factors), arms.rate
        elif arm in ("lora", "lora-paper"):
            numbers = sum(map(len, self.factors.values())) * (_PAPER_RATIO if arm == "lora-paper" else 1)
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


def _circumstances(bench: ExpertBench, arms: Arms, manner: Manner) -> str:
    """A hash of what every result of a comparison depends on but its task, arm and seed."""
    told = {**asdict(arms), "arms": None, "addresses": [str(address) for address in arms.addresses]}
    held = json.dumps([bench.checkpoint.fingerprint(), told, asdict(replace(manner, seed=0))], sort_keys=True)
    return hashlib.sha256(held.encode()).hexdigest()[:12]


def _held(kept: Path | None) -> list[Result]:
    """The results that a file holds; a last line that a kill has cut short is taken off it."""
    if kept is None or not kept.is_file():
        return []
    hint = "give another file, or delete it: it holds no results of a comparison."
    text = read_text(kept, hint=hint)
    whole, cut = text[: text.rfind("\n") + 1], text[text.rfind("\n") + 1 :]
    if cut and not cut.startswith(_BEGIN[: len(cut)]):
        whole, cut = text, ""
    found = []
    for number, line in enumerate(whole.splitlines(), 1):
        where = f"{kept}, line {number}"
        found += [shaped(Result, parse_json(line, where, hint=hint), where, hint)] if line else []
    if cut:
        write_text(kept, whole)
    return found


def _keep(kept: Path | None, result: Result) -> None:
    if kept is not None:
        told: dict[str, Any] = asdict(result)
        with explained(kept), open(kept, "a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
