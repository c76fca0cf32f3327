"""What the verbs of adaptation find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from superweights.record import Score


@dataclass(frozen=True)
class ExpertTrained:
    """An expert and what it is worth: mean rewards on the test split (`rise` paired, with its standard error over
    prompts) and on the validation split that chose the step. `best_step` 0 says that nothing was better than the base.
    """

    expert: str
    task: str
    parameters: int
    test: int
    test_before: float
    test_after: float
    rise: float
    rise_error: float | None
    valid_reward_before: float
    valid_reward: float
    best_step: int
    steps: list[dict[str, Any]]
    checks: list[list[float]]
    notes: list[str]


@dataclass(frozen=True)
class Answers:
    """Answers to prompts; `first_pass` is the mean share that choosing took of the second pass's time."""

    answers: list[dict[str, Any]]
    first_pass: float | None


@dataclass(frozen=True)
class ExpertWritten:
    """What was written of an expert: the folders, in which form, its bytes, and the share of the change it misses."""

    form: str
    folders: list[str]
    nbytes: int
    missed: float


@dataclass(frozen=True)
class ExpertsMixed:
    """Experts mixed by examples: how much of each, how good on the shots and, before and after, on the test split."""

    experts: list[str]
    alpha: list[float]
    shots: int
    reward_on_shots: float
    log_likelihood: float
    test_before: float
    test_after: float
    history: list[list[float]]


@dataclass(frozen=True)
class Compared:
    """Arms beside each other: (task, arm) rows with the share of right answers and its rise over the base, over seeds.

    `results` are the single runs.
    """

    rows: list[dict[str, Any]]
    results: list[dict[str, Any]]


@dataclass(frozen=True)
class AdaptationEffects:
    """What an expert does to super weights (`consequences`) and, before and after, to sinks and massive activations."""

    expert: str
    consequences: dict[str, Any]
    before: Mapping[str, Score]
    after: Mapping[str, Score]


@dataclass(frozen=True)
class Drifted:
    """How far a checkpoint is from its base: see `adaptation.drift.Drift`."""

    base: str
    drift: dict[str, Any]
