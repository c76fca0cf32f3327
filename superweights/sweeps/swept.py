"""What a whole sweep gave, model by model, and the file that keeps it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from superweights.jobs import Store
from superweights.sweeps.cell import SWEEP
from superweights.sweeps.outcomes import Outcome
from superweights.sweeps.plot import draw
from superweights.sweeps.setup import Setup


@dataclass(frozen=True, eq=False)
class Swept:
    """The outcomes of a sweep."""

    setups: tuple[Setup, ...]
    """Each model's part: its task, its cut of the text, its points and cells, and notes for the reader."""
    outcomes: tuple[Outcome, ...]
    """One for each point, model by model."""
    store: Path
    """The file that keeps every cell: the same sweep goes on from there."""

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The points that could not be measured; each says why."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of the results should know."""
        return tuple(note for setup in self.setups for note in setup.notes)

    def by_model(self) -> Iterator[tuple[Setup, tuple[Outcome, ...]]]:
        """Each model's part with its outcomes."""
        for setup in self.setups:
            mine = setup.task.fingerprint
            yield setup, tuple(outcome for outcome in self.outcomes if outcome.fingerprint == mine)

    def picture(self) -> str:
        """The curves as SVG."""
        return draw(self.outcomes)

    def export(self) -> str:
        """Every cell of the store as JSON lines, those of other sweeps over the same models too."""
        with Store(self.store, {s.task.fingerprint: s.task.name for s in self.setups}, SWEEP) as opened:
            return "".join(f"{line}\n" for line in opened.export())


def default_store(setups: Sequence[Setup]) -> Path:
    """A file in this folder, named after the models and their numbers, so that others do not fall into it."""
    name = "-".join(re.sub(r"[^\w.]+", "-", Path(s.task.name).name).strip("-") for s in setups)
    return Path(f"sweep-{name[:80]}-{''.join(s.task.fingerprint[:8] for s in setups[:4])}.sqlite")
