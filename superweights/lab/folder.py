"""The folder of a run: what stands where in it, and what may be continued in it.

recipe.toml       what is trained
log.jsonl         a line for each logged step
profiles.jsonl    a profile for each time it was looked, the first before the first step
frames/           attention and norms of one row at each of those times
checkpoints/      the newest state of training
model/            the trained model, as transformers saves one
result.json       the end: written last
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from superweights.artefacts.disk import explained
from superweights.artefacts.file import write_text
from superweights.artefacts.place import clear_dead
from superweights.artefacts.reading import parse_json, read_text
from superweights.artefacts.shape import Count, NullIsNan, shaped
from superweights.errors import SuperweightsError
from superweights.lab.profile import Profile
from superweights.lab.recipe import Recipe
from superweights.record import to_json_line

_DAMAGED = "remove that file: the same command makes it anew from the last checkpoint."


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds one run, finished or not."""

    path: Path
    """Where it is."""

    @classmethod
    def begin(cls, path: str | Path, recipe: Recipe) -> RunFolder:
        """The folder, made or continued. Raises `SuperweightsError` where it holds another recipe's run, or things
        that are no run's."""
        folder = cls(Path(path))
        if folder.path.exists() and not folder.path.is_dir():
            raise SuperweightsError(f"{path} is a file.", hint="give a folder.")
        if folder.recipe_file.exists():
            held = Recipe.read(folder.recipe_file)
            if held.fingerprint != recipe.fingerprint:
                raise SuperweightsError(
                    f"{path} holds a run of another recipe ({_difference(held, recipe)}).",
                    hint="give another folder, or remove this one.",
                )
            return folder
        if folder.path.exists():  # it may have been ended while it wrote its recipe
            clear_dead(folder.recipe_file, all_of_them=True)
        strange = [each.name for each in folder.path.iterdir()] if folder.path.exists() else []
        if strange:
            raise SuperweightsError(
                f"{path} is not empty and holds no run (it has {strange[0]!r}).", hint="give a new folder."
            )
        folder.path.mkdir(parents=True, exist_ok=True)
        write_text(folder.recipe_file, recipe.to_toml())
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """A folder that is there. Raises `SuperweightsError` where it holds no run."""
        folder = cls(Path(path))
        if not folder.recipe_file.exists():
            raise SuperweightsError(
                f"{path} holds no run of the lab.", hint="superweights lab train RECIPE --to DIR makes one."
            )
        return folder

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def log_file(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def profiles_file(self) -> Path:
        return self.path / "profiles.jsonl"

    @property
    def frames(self) -> Path:
        return self.path / "frames"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def recipe(self) -> Recipe:
        """What is trained here."""
        return Recipe.read(self.recipe_file)

    def result(self) -> dict[str, Any] | None:
        """How it ended, or None while it has not."""
        file = self.result_file
        if not file.exists():
            return None
        return shaped(dict, parse_json(read_text(file), str(file), hint=_DAMAGED), str(file), _DAMAGED)

    def profiles(self) -> list[dict[str, Any]]:
        """Every profile with its `step`, in order. Raises `SuperweightsError` for a line that is none."""
        held = list(lines(self.profiles_file))
        for line in held:
            Profile.from_json({key: value for key, value in line.items() if key != "step"})
        return held

    def log(self) -> list[dict[str, Any]]:
        """Every logged step, in order."""
        where = str(self.log_file)
        return [asdict(shaped(_Logged, line, where, _DAMAGED)) for line in lines(self.log_file)]

    def newest_checkpoint(self) -> tuple[int, Path] | None:
        """The step and the folder of the last whole checkpoint."""
        found = sorted((self.path / "checkpoints").glob(f"step-{'[0-9]' * 8}"))
        return (int(found[-1].name.removeprefix("step-")), found[-1]) if found else None

    def checkpoint_at(self, step: int) -> Path:
        """Where the checkpoint of `step` belongs."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def clear(self) -> None:
        """Remove what a run needs no longer once its result is there."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def settle(self, partial: Path, step: int) -> None:
        """Let a written checkpoint count, and drop the older ones."""
        place = self.checkpoint_at(step)
        if place.exists():
            shutil.rmtree(place)
        os.replace(partial, place)
        for other in (self.path / "checkpoints").iterdir():
            if other != place:
                shutil.rmtree(other, ignore_errors=True)

    def rewind(self, step: int) -> None:
        """Forget what was logged and profiled after `step`, and lines that a kill has cut short."""
        for file in (self.log_file, self.profiles_file):
            if file.exists():
                kept = [line for line in lines(file) if line["step"] <= step]
                write_text(file, "".join(f"{to_json_line(line)}\n" for line in kept))
        for frame in self.frames.glob(f"step-{'[0-9]' * 8}.npz"):
            if int(frame.stem.removeprefix("step-")) > step:
                frame.unlink()


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, each with its `step`; a last line that was cut short is left out.

    Raises `SuperweightsError` for a line that is something else.
    """
    if not file.exists():
        return
    text = read_text(file, hint=_DAMAGED)
    for line in text[: text.rfind("\n") + 1].splitlines():
        held = parse_json(line, str(file), hint=_DAMAGED)
        shaped(_Line, held, str(file), _DAMAGED, "some")
        yield held


def append(file: Path, held: dict[str, Any]) -> None:
    """One more line. Raises `SuperweightsError` for a full disk; what was written of the line is then left out."""
    with explained(file), file.open("a", encoding="utf-8") as out:
        out.write(to_json_line(held) + "\n")


@dataclass(frozen=True)
class _Line:
    """What every line has: after how many updates it was written."""

    step: Count


@dataclass(frozen=True)
class _Logged(_Line):
    """A line of the log: mean loss (nats per token) since the one before, learning rate, norm of the gradient."""

    loss: Annotated[float, NullIsNan()]
    learning_rate: Annotated[float, NullIsNan()]
    gradient_norm: Annotated[float, NullIsNan()]


def _difference(held: Recipe, given: Recipe) -> str:
    """The first dial in which two recipes differ, in words."""
    one, two = held.to_dict(), given.to_dict()
    for table, value in one.items():
        pairs = value.items() if isinstance(value, dict) else [(table, value)]
        for name, was in pairs:
            now = two[table].get(name) if isinstance(value, dict) else two[table]
            if was != now and name != "name":
                return f"{name} is {was!r} there and {now!r} here"
    return "it has other dials"
