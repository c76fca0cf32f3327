"""Many jobs kept in one file as their results come: a leased store, worker processes, and Ray.

A payload goes in, a result comes out, both JSON (`Kind`). Killed at any moment and started again a run goes on where it
was; several processes may share a store. Sweeps are one user, the lab's grids another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from superweights.errors import SuperweightsError
from superweights.jobs.kind import Kind, Payload, Task, Worker, kind_of
from superweights.jobs.local import work_in_processes
from superweights.jobs.store import Entry, Store
from superweights.jobs.work import names_of, work
from superweights.progress import Progress
from superweights.wording import counted

__all__ = ["Entry", "Kind", "Payload", "Store", "Task", "Worker", "check_work", "kind_of", "run_jobs"]


def check_work(subjects: int, workers: int) -> None:
    """Raise `SuperweightsError` where there is nothing to do or nobody to do it."""
    if workers < 1 or not subjects:
        raise SuperweightsError(
            f"{counted(subjects, 'subject')} with {counted(workers, 'worker')} are nothing to do.",
            hint="give a model, and 1 worker or more.",
        )


def run_jobs(
    tasks: Sequence[Task],
    payloads: Iterable[Any],
    store: str | Path,
    *,
    workers: int = 1,
    ray: bool = False,
    retry_failed: bool = False,
    anew: bool = False,
    progress: Progress | None = None,
) -> dict[str, Entry]:
    """What became of every job of `tasks`, by key, done now or found in the file `store`.

    `workers` above 1 are processes of this machine, or with `ray` actors of a Ray cluster (extra `ray`). A job that
    fails is an entry with a sentence and stops nothing. `retry_failed` tries those again, `anew` does all of them
    again: for jobs whose results lie elsewhere, and are gone.

    Raises `SuperweightsError` for a store of other subjects, of another kind or version, and for a damaged one.
    """
    check_work(len(tasks), workers)
    path, kind, keys = Path(store), kind_of(tasks), [key for task in tasks for key in task.keys]
    with Store(path, names_of(tasks), kind) as opened:
        opened.add(payloads)
        if retry_failed or anew:
            opened.reopen(keys, done=anew)
    if ray:
        from superweights.jobs.on_ray import work_on_ray

        work_on_ray(path, tasks, workers, progress)
    elif workers > 1:
        work_in_processes(path, tasks, workers, progress)
    else:
        work(path, tasks, progress=progress)
    with Store(path, names_of(tasks), kind) as opened:
        return opened.read(keys)
