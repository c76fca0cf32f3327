"""Mixing experts by a few examples: the cross-entropy method over how much of each goes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superweights.adaptation.applying import turned
from superweights.adaptation.expert import Expert, combined
from superweights.adaptation.factors import Factors
from superweights.adaptation.speaking import Reader, mean_log_likelihood, rewarded
from superweights.adaptation.tasks import Example, Reward, Task, disjoint
from superweights.errors import SuperweightsError

# How good a member is: the first number decides, the second where the first ties.
Fitness = Callable[[Tensor], tuple[float, float]]


@dataclass(frozen=True)
class Search:
    """The cross-entropy method's settings, the published code's: 32 members, a fifth of them elite, alphas in [0, 1].

    `spread` is the first standard deviation; the mean starts at 1 / experts and moves to the elite's each time.
    """

    population: int = 32
    """Members of each iteration."""
    elite: float = 0.2
    """The share of them that the next iteration follows."""
    spread: float = 0.5
    iterations: int = 50
    """How many there are."""
    seed: int = 0
    """Of the members."""

    def __post_init__(self) -> None:
        if self.population < 2 or not 0 < self.elite <= 1 or self.spread <= 0 or self.iterations < 1:
            raise SuperweightsError(
                "The search needs 2 members or more, an elite above 0 and up to 1, a spread above 0, and an iteration.",
                hint="leave an option out to have the published value.",
            )


@dataclass(frozen=True)
class Found:
    """The best member: its alphas, how good it was, and the best of each iteration."""

    alpha: tuple[float, ...]
    """One for each expert."""
    fitness: tuple[float, float]
    """Mean reward, then what decides where two are equal: mean log-likelihood in nats."""
    history: tuple[tuple[float, float], ...]
    """Its fitness, iteration by iteration."""


def evolve(fitness: Fitness, size: int, search: Search = Search()) -> Found:
    """The best of all members seen of `size` numbers in [0, 1], by the cross-entropy method.

    Each iteration draws members from a normal distribution (the best so far takes the first place), and the mean and
    standard deviation of its elite make the next. Source: Transformer², appendix, and its code; we differ in ordering
    the *elite*, not only the best member, by the second number of fitness where the first ties (there such ties fall
    arbitrarily).
    """
    generator = torch.Generator().manual_seed(search.seed)
    mean, spread = torch.full((size,), 1 / size), torch.full((size,), search.spread)
    best: tuple[tuple[float, float], Tensor] | None = None
    history: list[tuple[float, float]] = []
    for _ in range(search.iterations):
        members = (mean + spread * torch.randn(search.population, size, generator=generator)).clamp(0, 1)
        if best is not None:
            members[0] = best[1]
        ranked = sorted(
            ((fitness(member), member) for member in members), key=lambda each: each[0], reverse=True
        )
        if best is None or ranked[0][0] > best[0]:
            best = ranked[0]
        history.append(best[0])
        elite = torch.stack([member for _, member in ranked[: max(1, int(search.elite * search.population))]])
        mean, spread = elite.mean(0), elite.std(0, unbiased=False)
    assert best is not None, "there is an iteration"
    return Found(tuple(best[1].tolist()), best[0], tuple(history))


def mix_by_shots(
    model: nn.Module,
    reader: Reader,
    factors: dict[str, Factors],
    experts: Sequence[Expert],
    task: Task,
    shots: Sequence[Example],
    reward: Reward,
    search: Search = Search(),
) -> Found:
    """How much of each expert answers `shots` best: mean reward, then mean log-likelihood of the right answers.

    Raises `SuperweightsError` where a shot is among the task's test prompts, and for no shots.
    """
    if not shots:
        raise SuperweightsError("There are no shots to choose by.", hint="give a task with a training split.")
    disjoint(shots, task.test)

    def fitness(alpha: Tensor) -> tuple[float, float]:
        with turned(model, factors, combined(experts, alpha.tolist())):
            worth = rewarded(model, reader, task, shots, reward).mean().item()
            return worth, mean_log_likelihood(model, reader, shots)

    return evolve(fitness, len(experts), search)
