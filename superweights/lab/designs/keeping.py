"""What the experiments found, kept as JSON: one file an experiment, written whole after each seed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from superweights.artefacts.disk import explained
from superweights.artefacts.file import write_text
from superweights.artefacts.reading import parse_json, read_text
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError


@dataclass(frozen=True)
class Spread:
    """The mean over seeds, the smallest and the largest."""

    mean: float
    least: float
    """The smallest."""
    most: float
    """The largest."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.least:.3f} to {self.most:.3f})"


def keep(folder: Path, name: str, runs: Sequence[Any], settings: Any, cpu_seconds: float) -> Path:
    """Write the runs of the experiment `name` so far; the file is never half of itself."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    held = {
        "experiment": name,
        "settings": asdict(settings),
        "cpu_seconds": round(cpu_seconds, 1),
        "runs": [asdict(run) if is_dataclass(run) and not isinstance(run, type) else run for run in runs],
    }
    file = folder / f"{name}.json"
    write_text(file, json.dumps(held, indent=1))
    return file


def kept(folder: Path, name: str) -> dict[str, Any]:
    """What `keep` has written. Raises `SuperweightsError` where there is nothing, or something else."""
    file = folder / f"{name}.json"
    if not file.is_file():
        raise SuperweightsError(
            f"{folder} holds no results of {name}.", hint=f"python benchmarks/designs.py {name} makes them."
        )
    again = "run the experiment again."
    held = shaped(dict, parse_json(read_text(file, hint=again), str(file), hint=again), str(file), again)
    if held.get("experiment") != name:
        raise SuperweightsError(f"{file} is not of {name}.", hint="run the experiment again.")
    return held
