"""The runs of a comparison as jobs: the store says which are done, workers (processes, actors of Ray) train them.

A job is one arm on one task with one seed, the controls of SVF with their arm. Its key tells all that its numbers
depend on, so that a store never answers for another model, task, reward or manner.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from superweights.adaptation.bench import ExpertBench, benched
from superweights.adaptation.comparing import CONTROLS, Arms, Result, Run, refuse_twice
from superweights.adaptation.made_tasks import task_named
from superweights.adaptation.manner import Manner
from superweights.adaptation.tasks import reward_digest, reward_named
from superweights.adaptation.trained import Base
from superweights.address import Address
from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.jobs import Entry, Kind, run_jobs
from superweights.progress import Progress, silent
from superweights.subject import Source

_HINT = "the store was changed, or is of another version: give another file."


@dataclass(frozen=True)
class Comparison:
    """One arm on one task with one seed, and all that its numbers depend on."""

    model: str
    """The model's fingerprint."""
    task: str
    """The task's name or file."""
    digest: str
    """A hash of the task as this seed draws and splits it."""
    seed: int
    """Of the split and the training."""
    arm: str
    controls: tuple[str, ...]
    """The controls of SVF that are judged with it."""
    part: str
    """Which matrices: mlp, attention or both."""
    layers: tuple[int, ...] | None
    """Which layers; None: all."""
    rate: float
    """The arm's learning rate."""
    count: int
    """How many single weights may move; 0 for arms that are not of single weights."""
    addresses: tuple[str, ...]
    """The super weights, for arms of single weights."""
    reward: str
    """The reward's name."""
    reward_code: str
    """A hash of the reward's own file, if it has one."""
    manner: dict[str, Any]
    """How all arms are trained."""

    @property
    def key(self) -> str:
        """A hash of all that it says."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    @property
    def subject(self) -> str:
        """The model."""
        return self.model

    @property
    def arms(self) -> Arms:
        """The arm and its controls, as a run takes them."""
        rates = {"rate": self.rate, "lora_rate": self.rate, "weight_rate": self.rate}
        places = tuple(map(Address.parse, self.addresses))
        names = (self.arm, *self.controls)
        return Arms(names, self.part, self.layers, **rates, addresses=places, count=self.count or None)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: str = "a comparison") -> Comparison:
        """The job that `to_json` wrote. Raises `SuperweightsError` naming `where` for anything else."""
        return shaped(cls, parse_json(text, where, hint=_HINT), where, _HINT)


@dataclass(frozen=True)
class Gained:
    """What a job found: the result of its arm, and of each of its controls."""

    results: list[Result]
    """One for each."""


COMPARISON = Kind("comparison", Comparison, Gained)


@dataclass(frozen=True)
class Comparisons:
    """The task of a comparison's workers: the model opened once, its jobs one after the other."""

    source: Source
    """The model, and how it is opened."""
    name: str
    """What the reader calls it."""
    fingerprint: str
    """What it must still be when a worker opens it."""
    keys: tuple[str, ...]
    """The keys of its jobs."""
    progress: Progress = silent
    """Hears from inside a run, where that is in this process."""

    @property
    def kind(self) -> Kind:
        """Comparisons in, what was gained out."""
        return COMPARISON

    def shared(self, workers: int) -> Comparisons:
        """The task for other processes, which cannot be heard from here."""
        return replace(self, progress=silent)

    @contextmanager
    def opened(self) -> Iterator[Comparer]:
        """A worker. Raises `SuperweightsError` where the name stands for another checkpoint now."""
        with benched(self.source, progress=self.progress) as bench:
            if bench.checkpoint.fingerprint() != self.fingerprint:
                raise SuperweightsError(
                    f"{self.name} is not the checkpoint that this comparison began with.",
                    hint="give every worker the same files, or start again.",
                )
            yield Comparer(bench)


class Comparer:
    """A worker that trains one arm after the other; what the base is rewarded is asked once for all arms of a seed."""

    together = 1

    def __init__(self, bench: ExpertBench):
        self.bench = bench
        self._known: dict[tuple[Any, ...], tuple[Base, float]] = {}

    def do(self, payloads: Sequence[Comparison]) -> list[Gained | SuperweightsError]:
        """The result of each job, or why it has none."""
        return [self._gained(each) for each in payloads]

    def _gained(self, asked: Comparison) -> Gained | SuperweightsError:
        try:
            task = task_named(asked.task, seed=asked.seed)
            judged = asked.task, reward_named(asked.reward)
            run = Run(self.bench, task, asked.seed, asked.arms, judged, Manner(**asked.manner))
            known = asked.digest, asked.reward, asked.reward_code, json.dumps(asked.manner, sort_keys=True)
            if known not in self._known:
                self._known = {known: run.known()}  # those of other seeds are not asked for again
            gained = Gained(list(run.results(self._known[known])))
        except SuperweightsError as error:
            return error
        if task.digest() != asked.digest or reward_digest(asked.reward) != asked.reward_code:
            return SuperweightsError("The task or its reward was changed meanwhile.", hint="start again.")
        return gained


def compare(
    source: Source,
    name: str,
    fingerprint: str,
    tasks: Sequence[str],
    seeds: Sequence[int],
    arms: Arms,
    reward: str,
    manner: Manner,
    *,
    store: Path | None = None,
    workers: int = 1,
    ray: bool = False,
    progress: Progress = silent,
) -> tuple[list[Result], list[str]]:
    """The results of every arm on every task with every seed, and a sentence for each run that cannot be made.

    Five seeds of a task are five splits of it. What the file `store` holds already is not run again (None: nothing is
    kept). Raises `SuperweightsError` where no run is asked for, for a task named twice, and where no run can be made.
    """
    if not tasks or not seeds:
        raise SuperweightsError(
            "Nothing is compared without a task and a seed.", hint="give 1 or more of each."
        )
    refuse_twice("The task", tasks)
    reward_named(reward)
    jobs = [
        _job(fingerprint, task, seed, arm, arms, reward, manner)
        for task in tasks
        for seed in seeds
        for arm in arms.arms
        if arm not in CONTROLS
    ]
    task = Comparisons(source, name, fingerprint, tuple(job.key for job in jobs), progress)
    with ExitStack() as stack:
        kept = store or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "comparison.sqlite"
        how: dict[str, Any] = {"workers": workers, "ray": ray, "retry_failed": True}
        entries = run_jobs([task], jobs, kept, progress=progress if workers > 1 or ray else silent, **how)
    return _sorted(entries, jobs, arms)


def _job(
    fingerprint: str, name: str, seed: int, arm: str, arms: Arms, reward: str, manner: Manner
) -> Comparison:
    rate = {"svf": arms.rate, "lora": arms.lora_rate, "lora-paper": arms.lora_rate}.get(arm, arms.weight_rate)
    single = arm not in ("svf", "lora", "lora-paper")
    return Comparison(
        model=fingerprint,
        task=name,
        digest=task_named(name, seed=seed).digest(),
        seed=seed,
        arm=arm,
        controls=tuple(each for each in CONTROLS if each in arms.arms) if arm == "svf" else (),
        part=arms.part,
        layers=arms.layers,
        rate=rate,
        count=(arms.count or len(arms.addresses)) if single else 0,
        addresses=tuple(map(str, arms.addresses)) if single else (),
        reward=reward,
        reward_code=reward_digest(reward),
        manner=asdict(replace(manner, seed=seed)),
    )


def _sorted(
    entries: dict[str, Entry], jobs: Sequence[Comparison], arms: Arms
) -> tuple[list[Result], list[str]]:
    """What was found in the order of tasks, arms and seeds, and what could not be."""
    held = [entries[job.key] for job in jobs]
    failed = [entry for entry in held if entry.status == "failed"]
    if len(failed) == len(held):
        raise SuperweightsError(
            failed[0].sentence or "No run could be made.", hint=failed[0].hint or "start again."
        )
    found = [result for entry in held if entry.status == "done" for result in entry.result.results]
    order = list(arms.arms)
    tasks = list(dict.fromkeys(job.task for job in jobs))
    found.sort(key=lambda each: (tasks.index(each.task), order.index(each.arm), each.seed))
    told = [f"{e.payload.task}, {e.payload.arm}, seed {e.payload.seed}: {e.sentence}" for e in failed]
    return found, told
