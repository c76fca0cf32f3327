"""What the verbs of adaptation find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from superweights.record import Score


@dataclass(frozen=True)
class ExpertTrained:
    """An expert and what it is worth: mean rewards on the test split (`rise` paired, with its standard error over
    prompts) and on the validation split that chose the step. `best_step` 0 says that nothing was better than the base.
    """

    expert: str
    """Its name, that of its folder."""
    task: str
    """The name of the task."""
    parameters: int
    """How many numbers were trained."""
    test: int
    """How many prompts the test split has."""
    test_before: float
    """Mean reward of the base on the test split."""
    test_after: float
    """The same with the expert."""
    rise: float
    """The latter less the former, prompt by prompt."""
    rise_error: float | None
    """Standard error of the rise over prompts; None for one prompt."""
    valid_reward_before: float
    """Mean reward of the base on the validation split."""
    valid_reward: float
    """The same at the step that was chosen by it."""
    best_step: int
    """The step that was chosen."""
    steps: list[dict[str, Any]]
    """What each update saw: see `adaptation.training.Step`."""
    checks: list[list[float]]
    """Each look at the validation split: the step and the mean reward there."""
    notes: list[str]
    """What the reader should know."""
    ended: str = ""
    """Why training ended, in a sentence."""


@dataclass(frozen=True)
class Answers:
    """Answers to prompts; `first_pass` is the mean share that choosing took of the second pass's time."""

    answers: list[dict[str, Any]]
    """For each prompt the choice, the prompt and the text: see `adaptation.dispatch.Answer`."""
    first_pass: float | None


@dataclass(frozen=True)
class ExpertWritten:
    """What was written of an expert: the folders, in which form, its bytes, and the share of the change it misses."""

    form: str
    """dense, psoft or lora."""
    folders: list[str]
    """Where it was written."""
    nbytes: int
    """What the folders hold, in bytes."""
    missed: float
    """The part of the change that the form cannot hold, as a share of its norm; 0 for what is exact."""


@dataclass(frozen=True)
class ExpertsMixed:
    """Experts mixed by examples: how much of each, how good on the shots and, before and after, on the test split."""

    experts: list[str]
    """Their names."""
    alpha: list[float]
    """How much of each, in the order of the names."""
    shots: int
    """How many examples chose."""
    reward_on_shots: float
    """Mean reward of the mixture on them."""
    log_likelihood: float
    """Mean log-likelihood of the right answers there, in nats: it decides between equal rewards."""
    test_before: float
    """Mean reward of the base on the test split."""
    test_after: float
    """The same with the mixture."""
    history: list[list[float]]
    """The best of each iteration so far: its reward and its log-likelihood."""


@dataclass(frozen=True)
class Compared:
    """Arms beside each other: (task, arm) rows with the share of right answers and its rise over the base, over seeds.

    `results` are the single runs.
    """

    rows: list[dict[str, Any]]
    """A row for each task and arm: `task`, `arm`, `right`, `gain` (scores over seeds) and `parameters`."""
    results: list[dict[str, Any]]
    failed: list[str] = field(default_factory=list)
    """A sentence for each run that could not be made."""


@dataclass(frozen=True)
class AdaptationEffects:
    """What an expert does to super weights (`consequences`) and, before and after, to sinks and massive activations."""

    expert: str
    """Its folder."""
    consequences: dict[str, Any]
    before: Mapping[str, Score]
    """Scores of the profile for the base, by name."""
    after: Mapping[str, Score]
    """The same with the expert."""


@dataclass(frozen=True)
class Drifted:
    """How far a checkpoint is from its base: see `adaptation.drift.Drift`."""

    base: str
    """The base's name."""
    drift: dict[str, Any]
    """Each tensor's change and each weight's, as JSON values."""
