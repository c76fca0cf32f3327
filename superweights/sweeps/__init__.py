"""Sweeps: a grid of edits by scores over one or more models, kept in one file as the results come.

>>> from superweights.address import Address
>>> weight = Address("model.layers.11.mlp.down_proj.weight", (507, 1229))
>>> setup = prepare("embedded", plan_scale([weight]), Reading(window=64, windows=4))    # doctest: +SKIP
>>> outcomes = sweep(setup, "curve.sqlite")                                           # doctest: +SKIP
>>> len(plan_scale([weight]))
13
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from superweights.errors import SuperweightsError
from superweights.progress import Progress
from superweights.sweeps.cell import SCORES, Cell, Cut, Numbers
from superweights.sweeps.controls import plan_controls
from superweights.sweeps.local import work_in_processes
from superweights.sweeps.outcomes import Outcome, outcomes_of
from superweights.sweeps.plans import (
    BASE,
    COUNTS,
    SCALES,
    Point,
    even_steps,
    plan_all,
    plan_each,
    plan_pairs,
    plan_scale,
)
from superweights.sweeps.plot import draw
from superweights.sweeps.setup import Reading, Setup, Source, prepare
from superweights.sweeps.store import Entry, Store
from superweights.sweeps.work import names_of, work

__all__ = [
    "BASE",
    "COUNTS",
    "SCALES",
    "SCORES",
    "Cell",
    "Cut",
    "Entry",
    "Numbers",
    "Outcome",
    "Point",
    "Reading",
    "Setup",
    "Source",
    "Store",
    "draw",
    "even_steps",
    "plan_all",
    "plan_controls",
    "plan_each",
    "plan_pairs",
    "plan_scale",
    "prepare",
    "sweep",
]


def sweep(
    setups: Setup | Sequence[Setup],
    store: str | Path,
    *,
    workers: int = 1,
    ray: bool = False,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> list[Outcome]:
    """The outcome of every point of `setups`, measured now or found in the file `store`.

    What is there is not measured again, so that a sweep that was killed goes on when it is started again and
    ends with the same result; several processes may share a store. `workers` above 1 are processes of this
    machine, or with `ray` actors of a Ray cluster (extra `ray`). A cell that fails is an outcome with a
    sentence and stops nothing. `progress` counts cells.

    Raises `SuperweightsError` for a store of other models or of another version, and for a damaged one.
    """
    setups = [setups] if isinstance(setups, Setup) else list(setups)
    if workers < 1 or not setups:
        raise SuperweightsError(
            f"A sweep over {len(setups)} models with {workers} workers does nothing.",
            hint="give a model, and 1 worker or more.",
        )
    path, tasks = Path(store), [setup.task for setup in setups]
    with Store(path, names_of(tasks)) as opened:
        opened.add(cell for setup in setups for cell in setup.cells)
        if retry_failed:
            opened.reopen_failed([key for task in tasks for key in task.keys])
    if ray:
        from superweights.sweeps.on_ray import work_on_ray

        work_on_ray(path, tasks, workers, progress)
    elif workers > 1:
        work_in_processes(path, tasks, workers, progress)
    else:
        work(path, tasks, progress=progress)
    with Store(path, names_of(tasks)) as opened:
        return [outcome for setup in setups for outcome in outcomes_of(setup, opened)]
