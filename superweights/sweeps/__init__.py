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

from superweights.jobs import Entry, Store, run_jobs
from superweights.progress import Progress
from superweights.sweeps.cell import SCORES, SWEEP, Cell, Cut, Numbers
from superweights.sweeps.controls import plan_controls
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

__all__ = [
    "BASE",
    "COUNTS",
    "SCALES",
    "SCORES",
    "SWEEP",
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
    entries = run_jobs(
        [setup.task for setup in setups],
        [cell for setup in setups for cell in setup.cells],
        store,
        workers=workers,
        ray=ray,
        retry_failed=retry_failed,
        progress=progress,
    )
    return [outcome for setup in setups for outcome in outcomes_of(setup, entries)]
