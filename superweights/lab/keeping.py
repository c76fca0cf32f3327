"""What a run writes down while it trains: log, profiles, frames, event files, and the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from superweights.artefacts.disk import remove
from superweights.artefacts.file import write_text
from superweights.artefacts.folder import new_folder
from superweights.artefacts.manifest import Work
from superweights.errors import SuperweightsError
from superweights.lab.basis import own_basis
from superweights.lab.folder import RunFolder, append
from superweights.lab.frames import frame_of, save_frame
from superweights.lab.profile import Profile, profile_of
from superweights.lab.recipe import Recipe
from superweights.lab.result import Result
from superweights.lab.tasks import Task
from superweights.progress import Progress
from superweights.record import to_json_line, versions

# Rows that rounding is calibrated on, and rows that super weights are searched on: none is in the profile.
_CALIBRATION, _SEARCH = 16, 8


class Keeper:
    """Writes into the folder of one run. Only the first of several processes has one that is used."""

    def __init__(self, folder: RunFolder, recipe: Recipe, task: Task, tensorboard: bool, progress: Progress):
        self.folder, self.recipe, self.task, self.progress = folder, recipe, task, progress
        self._events = _event_writer() if tensorboard else None
        self._writer: Any = None
        self._losses: list[Tensor] = []
        self._norm = 0.0
        self._latest: Profile | None = None

    def begin(self, step: int) -> None:
        """Training begins, or goes on, after `step` updates."""
        held = self.folder.profiles()
        self._latest = Profile.from_json(_without_step(held[-1])) if held else None
        if self._events is not None:
            self._writer = self._events(str(self.folder.path / "tensorboard"), purge_step=step)

    def note(self, loss: Tensor, norm: Tensor) -> None:
        """One update was made."""
        self._losses.append(loss)
        self._norm = float(norm)

    def loss(self) -> Tensor:
        """The mean loss since this was last asked, on this process."""
        mean = torch.stack(self._losses).mean()
        self._losses.clear()
        return mean

    def log(self, step: int, loss: float, rate: float) -> None:
        """A line of the log, and the bar with its gauges."""
        line = {"step": step, "loss": loss, "learning_rate": rate, "gradient_norm": self._norm}
        append(self.folder.log_file, line)
        self._event("training", {k: v for k, v in line.items() if k != "step"}, step)
        self.progress(
            f"{self.recipe.name}: loss {loss:.3f}{self._gauges()}", step, self.recipe.schedule.steps
        )

    def look(self, model: nn.Module, optimizer: Any, step: int) -> None:
        """A profile and a frame of the model as it is, without rounding and search."""
        if any(line["step"] == step for line in self.folder.profiles()):
            return
        profile = self._profile(model, optimizer)
        save_frame(self.folder.frames, frame_of(model, self.task.held_out(1)[0], step))
        self._keep(profile, step)  # last: where its line is, all of this look is

    def finish(self, model: nn.Module, optimizer: Any, told: dict[str, Any]) -> None:
        """The last profile, with all that is measured; the model; the result, which ends the run."""
        end = None
        if told["status"] == "done":
            self.look(model, optimizer, told["step"])
            self._save(model)
            end = self._searched(self._profile(model, optimizer, whole=True))
        start = next((line for line in self.folder.profiles() if line["step"] == 0), None)
        result = Result(
            self.recipe,
            **told,
            optimizer_bytes=_state_bytes(optimizer),
            versions=versions(),
            start=None if start is None else Profile.from_json(_without_step(start)),
            end=end,
        )
        if self._writer is not None:
            self._writer.close()
        write_text(self.folder.result_file, to_json_line(result.to_json()) + "\n")
        self.folder.clear()

    def _profile(self, model: nn.Module, optimizer: Any, whole: bool = False) -> Profile:
        rows = self.recipe.schedule.held_out
        held = self.task.held_out(rows + _CALIBRATION + _SEARCH)
        device = next(model.parameters()).device
        ids = held[: max(1, len(held) - _CALIBRATION - _SEARCH)][:rows].to(device)
        calibration = held[len(ids) : len(ids) + _CALIBRATION].to(device) if whole else None
        own = own_basis(self.recipe.optimizer, optimizer, model)
        return profile_of(model, ids, roles=self.task.roles, own_basis=own, calibration=calibration)

    def _keep(self, profile: Profile, step: int) -> None:
        self._latest = profile
        append(self.folder.profiles_file, {"step": step, **profile.to_json()})
        numbers = {k: float(v) for k, v in profile.to_json().items() if isinstance(v, int | float)}
        self._event("profile", numbers, step)

    def _save(self, model: Any) -> None:
        """The model as transformers saves one, with its tokenizer where the task has one; all of it or nothing."""
        remove(self.folder.model)  # of a run that was killed before its result was written
        with new_folder(self.folder.model, Work("lab model", self.recipe.fingerprint, "")) as draft:
            with _quietly():
                model.save_pretrained(draft.path)
            if self.task.tokenizer is not None:
                self.task.tokenizer.save_pretrained(draft.path)

    def _searched(self, profile: Profile) -> Profile:
        """The profile with what a search for super weights has proven, on rows that training never saw."""
        from superweights.discovery import Search, find

        ids = self.task.held_out(self.recipe.schedule.held_out + _CALIBRATION + _SEARCH)[-_SEARCH:]
        found = find(str(self.folder.model), Search(windows=0), token_ids=ids)
        return replace(profile, super_weights=len(found.super_weights), super_weights_verdict=found.verdict)

    def _event(self, group: str, numbers: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def _gauges(self) -> str:
        """The outlier gauges of the latest profile, in words."""
        latest = self._latest
        if latest is None:
            return ""
        sink = "" if latest.argmax_share is None else f", sink {latest.argmax_share:.0%}"
        return f"{sink}, kurtosis {latest.kurtosis_channel_first:.1f}, |x| {latest.peak_first:.0f}"


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' own progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _state_bytes(optimizer: Any) -> int:
    """Bytes of every tensor that the optimizer remembers."""

    def size(held: Any) -> int:
        if isinstance(held, Tensor):
            return held.numel() * held.element_size()
        if isinstance(held, dict):
            return sum(map(size, held.values()))
        return sum(map(size, held)) if isinstance(held, list | tuple) else 0

    return size(dict(optimizer.state))


def _without_step(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "step"}


def _event_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SuperweightsError(
            "Event files need the package tensorboard.", hint="pip install 'superweights[lab]'"
        ) from error
    return SummaryWriter
