"""Training: a recipe becomes a model in a folder. Killed at any step and started again, it ends with the same weights.

accelerate brings processes (`torchrun`, gloo or NCCL), devices, gradient accumulation and the state of a checkpoint.
Which rows an update reads follows from its number alone, so that nothing has to be skipped or remembered.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from superweights.artefacts.disk import explained
from superweights.artefacts.folder import seal
from superweights.artefacts.manifest import Work, verify
from superweights.artefacts.reading import read_noun
from superweights.errors import SuperweightsError
from superweights.lab.folder import RunFolder
from superweights.lab.keeping import Keeper
from superweights.lab.models.building import build
from superweights.lab.optimizers.making import make_optimizer
from superweights.lab.recipe import Recipe
from superweights.lab.result import Result
from superweights.lab.tasks import Task, open_task
from superweights.progress import Progress, silent

# Loss beyond this many times that of guessing evenly is no training any more.
_TOO_MUCH = 2.0


class DivergedError(SuperweightsError):
    """The loss or a gradient is no finite number, or grows away; what there is is kept."""


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    cache: str | Path | None = None,
    tensorboard: bool = False,
    progress: Progress = silent,
) -> Result:
    """What became of training `recipe` in `folder`: begun, or gone on with where a killed run was, or read.

    The folder is described in `superweights.lab.folder`; `model/` in it is an ordinary transformers checkpoint. Under
    `torchrun` every process calls this, and the batch is divided between them. `cache` is where a text task keeps its
    tokens (None: `data` inside the folder). `tensorboard` also writes event files. `progress(label, done, total)`
    hears after each logged step of the loss and the gauges.

    A run whose loss diverges ends there with the status `diverged`, its log and last checkpoint kept. Raises
    `SuperweightsError` for a folder of another recipe, for a batch that cannot be divided, and for a full disk.
    """
    with explained(Path(folder)):
        return _through(recipe, folder, cache, tensorboard, progress)


def _through(
    recipe: Recipe, folder: str | Path, cache: str | Path | None, tensorboard: bool, progress: Progress
) -> Result:
    # accelerate counts processes without an accelerator only when it is told that there is none
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    with accelerator.main_process_first():  # one makes the folder and the tokens, the others find them there
        held = RunFolder.begin(folder, recipe)
        done = held.result()
        if done is not None:
            held.clear()  # what a program has left that ended before it did this
            return Result.from_json(done)
        task = open_task(recipe.task, Path(cache) if cache is not None else held.path / "data", progress)
    run = _Run(recipe, held, task, accelerator, Keeper(held, recipe, task, tensorboard, progress))
    return run.through()


@dataclass(frozen=True)
class _Spent:
    """run.json of a checkpoint: the seconds that the run has taken until then, by the clock and on the processor."""

    seconds: float
    cpu_seconds: float


def _checked(place: Path) -> _Spent:
    """What a checkpoint says of the run, once every byte of it is as it was written.

    Raises `SuperweightsError` where one is not: weights and moments are numbers, and nothing else could tell.
    """
    hint = f"remove it, and the same command begins again: rm -r '{place}'."
    try:
        verify(place, thoroughly=True)
    except SuperweightsError as error:
        raise SuperweightsError(error.message, hint=hint) from error
    return read_noun(_Spent, place / "run.json", hint=hint)


@dataclass(eq=False)
class _Run:
    """The state of one training."""

    recipe: Recipe
    folder: RunFolder
    task: Task
    accelerator: Accelerator
    keeper: Keeper
    step: int = 0
    resumed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    plain: nn.Module = field(init=False)
    model: nn.Module = field(init=False)
    optimizer: Any = field(init=False)
    rates: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.plain = build(self.recipe.architecture, self.recipe.seed)
        optimizer = make_optimizer(self.recipe.optimizer, self.plain)
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.model, self.optimizer = self.accelerator.prepare(self.plain, optimizer)
        schedule, world = self.recipe.schedule, self.accelerator.num_processes
        self.rows, rest = divmod(schedule.batch, schedule.accumulate * world)
        if rest or not self.rows:
            raise SuperweightsError(
                f"A batch of {schedule.batch} rows cannot be divided between {world} processes of "
                f"{schedule.accumulate} micro-batches.",
                hint="change schedule.batch or schedule.accumulate.",
            )

    def through(self) -> Result:
        """Every step that is left."""
        schedule = self.recipe.schedule
        self._resume()
        status, why = "done", None
        try:
            for step in range(self.step, schedule.steps):
                self._look(step)
                self._save(step)
                self._advance(step)
        except DivergedError as error:
            status, why = "diverged", error.message
        return self._finish(status, why)

    def _advance(self, step: int) -> None:
        schedule = self.recipe.schedule
        wall, cpu = time.perf_counter(), time.process_time()
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * schedule.rate(step)
        loss = self._backward(step)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), schedule.clip or math.inf)
        if not math.isfinite(norm):  # the same on every process: gradients are summed by now
            raise DivergedError(
                f"At step {step} the gradient is {norm.item()}.", hint="lower the learning rate, or clip."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step = step + 1
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        self.keeper.note(loss, norm)
        if self.step % schedule.log_every == 0 or self.step == schedule.steps:
            self._log()

    def _backward(self, step: int) -> Tensor:
        """The gradients of one update, and its mean loss on this process."""
        schedule, accelerator = self.recipe.schedule, self.accelerator
        total = torch.zeros((), device=accelerator.device)
        for micro in range(schedule.accumulate):
            place = micro * accelerator.num_processes + accelerator.process_index
            start = step * schedule.batch + place * self.rows
            ids = self.task.rows(start, start + self.rows).to(accelerator.device)
            last = micro == schedule.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.model), self._precision():
                loss = self.model(input_ids=ids, labels=ids).loss / schedule.accumulate
                accelerator.backward(loss)
            total += loss.detach()
        return total

    def _precision(self) -> Any:
        if self.recipe.schedule.precision == "float32":
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, torch.bfloat16)

    def _log(self) -> None:
        mean: Any = self.accelerator.reduce(self.keeper.loss(), "mean")
        loss = mean.item()
        if self.accelerator.is_main_process:
            self.keeper.log(self.step, loss, self.optimizer.param_groups[0]["lr"])
        if loss > _TOO_MUCH * math.log(self.task.vocabulary):
            raise DivergedError(
                f"At step {self.step} the loss is {loss:.2f}; guessing evenly would be "
                f"{math.log(self.task.vocabulary):.2f}.",
                hint="lower the learning rate, or make the warm-up longer.",
            )

    def _look(self, step: int) -> None:
        """Keep a profile and a frame, where one is due and not there already."""
        every = self.recipe.schedule.measure_every
        if step == 0 or (every and step % every == 0):
            if self.accelerator.is_main_process:
                self.keeper.look(self.plain, self.optimizer, step)
            self.accelerator.wait_for_everyone()

    def _save(self, step: int) -> None:
        """Keep a checkpoint where one is due."""
        every = self.recipe.schedule.checkpoint_every
        if not every or step % every or step <= self.resumed:
            return
        partial = self.folder.path / "checkpoints" / ".partial"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.accelerator.is_main_process:
            facts = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
            (partial / "run.json").write_text(json.dumps(facts), encoding="utf-8")
            seal(partial, Work("lab checkpoint", self.recipe.fingerprint, str(step)))
            self.folder.settle(partial, step)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        there = self.folder.newest_checkpoint()
        if there is not None:
            self.resumed, place = there
            self.step = self.resumed
            facts = _checked(place)
            self.accelerator.load_state(str(place))
            self.seconds, self.cpu_seconds = facts.seconds, facts.cpu_seconds
        if self.accelerator.is_main_process:
            self.folder.rewind(self.step)
            self.keeper.begin(self.step)
        self.accelerator.wait_for_everyone()

    def _finish(self, status: str, why: str | None) -> Result:
        """Look for the last time, save the model, write the result."""
        if self.accelerator.is_main_process:
            self.keeper.finish(self.plain, self.optimizer, self._told(status, why))
        self.accelerator.wait_for_everyone()
        found = self.folder.result()
        assert found is not None
        return Result.from_json(found)

    def _told(self, status: str, why: str | None) -> dict[str, Any]:
        schedule = self.recipe.schedule
        tokens = self.step * schedule.batch * (self.task.length - 1)
        return {
            "status": status,
            "why": why,
            "step": self.step,
            "tokens": tokens,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "processes": self.accelerator.num_processes,
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        }
