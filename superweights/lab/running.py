"""A whole suite in a folder: cells in worker processes, finished ones kept, the verdicts when all are there.

    suite.json        which suite, with the fingerprint of every run it needs
    runs/<arm>/...    a run's folder each, see `superweights.lab.folder`
    data/             what text tasks keep
    jobs.sqlite       which runs are done, and by which worker the others are

Killed at any moment and started again, it goes on where it was: a run whose result is there is read, one that was
begun goes on from its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from superweights.artefacts.disk import explained
from superweights.artefacts.file import write_text
from superweights.artefacts.reading import parse_json, read_noun, read_text
from superweights.errors import SuperweightsError
from superweights.jobs import check_work
from superweights.lab.cells import Training, work_through
from superweights.lab.folder import RunFolder
from superweights.lab.judging import Judged, best_rate, judge
from superweights.lab.result import Result
from superweights.lab.suites import SUITES, Cell, Suite, suite_named
from superweights.progress import Progress, silent

_MANIFEST = "suite.json"


@dataclass(frozen=True, eq=False)
class SuiteRun:
    """A suite that has been run, the results of its cells, and what is judged of them."""

    suite: Suite
    folder: Path
    """Where all of it is kept."""
    results: dict[tuple[str, float, int], Result]
    judged: Judged

    def folder_of(self, name: str, seed: int) -> RunFolder:
        """Where an arm's run of this seed is, at its best learning rate."""
        result = self.judged.runs[name][seed]
        return RunFolder(self.folder / "runs" / Cell(name, result.recipe.optimizer.learning_rate, seed).name)


@dataclass(frozen=True)
class _Begun:
    """suite.json: the suite's name, whether it is the short form, and the fingerprint of each arm's recipe."""

    suite: str
    quick: bool
    runs: dict[str, str]


def run_suite(
    suite: Suite, folder: str | Path, *, workers: int = 1, ray: bool = False, progress: Progress = silent
) -> SuiteRun:
    """`suite`, every arm of it, trained, profiled and judged in `folder`.

    First each arm with the first seed at each of its learning rates, then the other seeds at the best one (and at the
    control's own rate, which arms with another attention are held against). `workers` processes share the runs, one
    thread each; with one, training happens in this process; with `ray` they are actors of a Ray cluster, whose machines
    share the folder. Several such programs may work on one folder. `progress(label, done, total)` counts runs.

    Raises `SuperweightsError` for a folder that holds another suite, and where a worker keeps dying.
    """
    check_work(len(suite.names), workers)
    place = Path(folder)
    _begin(place, suite)
    first, own = suite.seeds[0], {name: suite.recipe(name).optimizer.learning_rate for name in suite.names}
    total = sum(len(suite.rates_of(name)) for name in suite.names) + len(suite.names) * (len(suite.seeds) - 1)
    rows = [Cell(name, rate, first) for name in suite.names for rate in suite.rates_of(name)]
    results = _done(place, suite, rows, (workers, ray), progress, 0, total)
    best = {(name, best_rate(suite, results, name)) for name in suite.names} | {("control", own["control"])}
    rest = [Cell(name, rate, seed) for seed in suite.seeds[1:] for name, rate in sorted(best)]
    results |= _done(place, suite, rest, (workers, ray), progress, len(rows), len(rows) + len(rest))
    return SuiteRun(suite, place, results, judge(suite, results))


def holds_suite(folder: str | Path) -> bool:
    """Whether a suite was begun in `folder`."""
    return (Path(folder) / _MANIFEST).exists()


def read_suite(folder: str | Path) -> SuiteRun:
    """A suite that was run in `folder`. Raises `SuperweightsError` where none was, or where runs are missing."""
    place = Path(folder)
    manifest = place / _MANIFEST
    if not holds_suite(place):
        raise SuperweightsError(
            f"{folder} holds no suite.", hint="superweights lab run prevention --to DIR makes one."
        )
    held = read_noun(_Begun, manifest, hint="superweights lab run SUITE --to ANOTHER begins one anew.")
    suite = suite_named(held.suite)
    suite = suite.quick() if held.quick else suite
    results = {}
    for cell in _every_cell(suite):
        found = RunFolder(place / "runs" / cell.name).result()
        if found is not None:
            results[cell.arm, cell.rate, cell.seed] = Result.from_json(found)
    if not any(arm == "control" for arm, _, _ in results):
        raise SuperweightsError(
            f"{folder} has no finished control yet.", hint="superweights lab run --to DIR goes on with it."
        )
    return SuiteRun(suite, place, results, judge(suite, results))


def _begin(place: Path, suite: Suite) -> None:
    """Make the folder, or check that it holds this very suite."""
    quick = suite != SUITES.get(suite.name)
    facts = {
        "suite": suite.name,
        "quick": quick,
        "runs": {name: suite.recipe(name).fingerprint for name in suite.names},
    }
    manifest = place / _MANIFEST
    if manifest.exists():
        if parse_json(read_text(manifest), str(manifest)) != facts:
            raise SuperweightsError(
                f"{place} holds another suite, or this one with other recipes.", hint="give another folder."
            )
        return
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise SuperweightsError(f"{place} is not empty and holds no suite.", hint="give a new folder.")
    with explained(place):
        place.mkdir(parents=True, exist_ok=True)
    write_text(manifest, json.dumps(facts, indent=1) + "\n")


def _done(
    place: Path,
    suite: Suite,
    cells: Iterable[Cell],
    crew: tuple[int, bool],
    progress: Progress,
    before: int,
    total: int,
) -> dict[tuple[str, float, int], Result]:
    """The results of `cells`: read where they are there, else worked out by `crew`, how many and whether on Ray."""
    listed = list(cells)
    folders = {cell: RunFolder(place / "runs" / cell.name) for cell in listed}
    open_ = [
        Training.of(suite.name, cell.name, suite.cell_recipe(cell))
        for cell in listed
        if folders[cell].result() is None
    ]
    ready = before + len(listed) - len(open_)
    workers, ray = crew
    told = lambda label, done: progress(label, ready + done, total)  # noqa: E731
    work_through(open_, place, workers, told, progress, ray=ray)
    found = {}
    for cell, folder in folders.items():
        held = folder.result()
        assert held is not None, "every cell has been worked through"
        found[cell.arm, cell.rate, cell.seed] = Result.from_json(held)
    return found


def _every_cell(suite: Suite) -> list[Cell]:
    return [
        Cell(name, rate, seed)
        for name in suite.names
        for rate in suite.rates_of(name)
        for seed in suite.seeds
    ]
