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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superweights.artefacts.reading import parse_json, read_text
from superweights.errors import SuperweightsError
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
        strange = [each.name for each in folder.path.iterdir()] if folder.path.exists() else []
        if strange:
            raise SuperweightsError(
                f"{path} is not empty and holds no run (it has {strange[0]!r}).", hint="give a new folder."
            )
        folder.path.mkdir(parents=True, exist_ok=True)
        write(folder.recipe_file, recipe.to_toml())
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
        return parse_json(read_text(file), str(file), hint=_DAMAGED) if file.exists() else None

    def profiles(self) -> list[dict[str, Any]]:
        """Every profile with its `step`, in order."""
        return list(lines(self.profiles_file))

    def log(self) -> list[dict[str, Any]]:
        """Every logged step, in order."""
        return list(lines(self.log_file))

    def newest_checkpoint(self) -> tuple[int, Path] | None:
        """The step and the folder of the last whole checkpoint."""
        found = sorted((self.path / "checkpoints").glob("step-*"))
        return (int(found[-1].name.removeprefix("step-")), found[-1]) if found else None

    def checkpoint_at(self, step: int) -> Path:
        """Where the checkpoint of `step` belongs."""
        return self.path / "checkpoints" / f"step-{step:08d}"

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
                write(file, "".join(f"{to_json_line(line)}\n" for line in kept))
        for frame in self.frames.glob("step-*.npz"):
            if int(frame.stem.removeprefix("step-")) > step:
                frame.unlink()


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; a last line that was cut short is left out."""
    if not file.exists():
        return
    text = file.read_text(encoding="utf-8")
    for line in text[: text.rfind("\n") + 1].splitlines():
        yield parse_json(line, str(file), hint=_DAMAGED)


def append(file: Path, held: dict[str, Any]) -> None:
    """One more line."""
    with file.open("a", encoding="utf-8") as out:
        out.write(to_json_line(held) + "\n")


def write(file: Path, text: str) -> None:
    """The file in one step, never half of it."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


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
