"""The runs of a suite as jobs: the store says which are done, workers train them, processes here or actors of Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.jobs import Kind, run_jobs
from superweights.lab.recipe import Recipe
from superweights.progress import Progress, silent

_STORE = "jobs.sqlite"
_HINT = "the store was changed: remove it, the same command makes it anew from the runs' folders."


@dataclass(frozen=True)
class Training:
    """One run of a suite: what is trained, and into which folder inside the suite's."""

    suite: str
    """The suite's name."""
    cell: str
    """The run's folder, inside that of the suite."""
    recipe: dict[str, Any]
    """As `Recipe.to_dict` gives it."""

    @classmethod
    def of(cls, suite: str, cell: str, recipe: Recipe) -> Training:
        """The job of training `recipe` in the folder `cell`."""
        return cls(suite, cell, json.loads(json.dumps(recipe.to_dict())))

    @property
    def key(self) -> str:
        """A hash of all that it says."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    @property
    def subject(self) -> str:
        """The suite: its runs have nothing to open."""
        return self.suite

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        held = {"suite": self.suite, "cell": self.cell, "recipe": self.recipe}
        return json.dumps(held, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: str = "a run") -> Training:
        """The job that `to_json` wrote. Raises `SuperweightsError` naming `where` for anything else."""
        return shaped(cls, parse_json(text, where, hint=_HINT), where, _HINT)


@dataclass(frozen=True)
class Trained:
    """How a run ended; all that it found is in its folder."""

    status: str
    """done or diverged."""
    fingerprint: str
    """The recipe's."""


TRAINING = Kind("suite", Training, Trained)


@dataclass(frozen=True)
class Trainings:
    """The task of a suite's workers: nothing to open, a run at a time."""

    name: str
    """The suite's name."""
    folder: str
    """The suite's folder; every worker must find it under this name."""
    keys: tuple[str, ...]
    """The keys of the runs that are left."""
    progress: Progress = silent
    """Hears from inside a run, where that is in this process."""

    @property
    def kind(self) -> Kind:
        """Trainings in, how they ended out."""
        return TRAINING

    @property
    def fingerprint(self) -> str:
        """The suite's name: its recipes are told in `suite.json` beside the store."""
        return self.name

    def shared(self, workers: int) -> Trainings:
        """The task for other processes, which cannot be heard from here."""
        return replace(self, progress=silent)

    @contextmanager
    def opened(self) -> Iterator[Trainer]:
        """A worker."""
        yield Trainer(Path(self.folder), self.progress)


@dataclass(frozen=True)
class Trainer:
    """A worker that trains one run after the other, each with what the processes of this machine leave it."""

    folder: Path
    """Where runs and the tokens of text tasks are kept."""
    progress: Progress
    """Who is told how far it is."""
    together: int = 1
    """How many runs it takes at once."""

    def do(self, payloads: Sequence[Training]) -> list[Trained | SuperweightsError]:
        """How each run ended, or why it could not be begun."""
        return [self._train(each) for each in payloads]

    def _train(self, asked: Training) -> Trained | SuperweightsError:
        from superweights.lab.training import train

        recipe = Recipe.from_dict(asked.recipe)
        place = self.folder / "runs" / asked.cell
        try:
            ended = train(recipe, place, cache=self.folder / "data", progress=self.progress)
        except SuperweightsError as error:
            return error
        return Trained(ended.status, recipe.fingerprint)


def work_through(
    works: Sequence[Training],
    folder: Path,
    workers: int,
    told: Callable[[str, int], None],
    within: Progress = silent,
    *,
    ray: bool = False,
) -> None:
    """Do all of `works`, whose results are not in their folders, with `workers` processes or actors.

    `told(label, done)` hears of every run that has ended; where one process does all, it or (for a single run)
    `within` also hears from inside a run. Raises `SuperweightsError` where a run could not be trained, after all
    others were, and where workers keep dying; what is done stays done.
    """
    if not works:
        return
    ended = 0

    def settled(_: str, done: int, total: int) -> None:
        nonlocal ended
        ended = done
        told("runs", done)

    inside = (
        within if len(works) == 1 else lambda label, step, steps: told(f"{label} ({step}/{steps})", ended)
    )
    task = Trainings(works[0].suite, str(folder), tuple(each.key for each in works), inside)
    store = folder / _STORE
    entries = run_jobs([task], works, store, workers=workers, ray=ray, anew=True, progress=settled)
    for entry in entries.values():
        if entry.status == "failed":
            raise SuperweightsError(f"{entry.payload.cell}: {entry.sentence}", hint=entry.hint or _HINT)
