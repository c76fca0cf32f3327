"""One worker: it claims jobs from the store, does them, writes what came out, until none is left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from superweights.errors import SuperweightsError
from superweights.jobs.kind import Kind, Task, kind_of
from superweights.jobs.owner import new_owner
from superweights.jobs.store import LEASE, Store
from superweights.progress import Progress
from superweights.stopping import stopped_by_sigterm

# How often a worker that has nothing to do looks whether another one has left cells behind, in seconds.
_LOOK_AGAIN = 0.5


def work(path: Path, tasks: Sequence[Task], *, workers: int = 1, progress: Progress | None = None) -> None:
    """Do the open jobs of `tasks` together with whoever else uses the store; returns when none is left.

    What others have claimed is waited for, and taken over where they have died. `workers` is how many share
    the work: each claim leaves some for the others. `progress` is told after each claim's results. Whatever ends
    this, SIGTERM as well as Ctrl-C, claims that are not finished are given up and results are kept.
    """
    owner, models, kind = new_owner(), names_of(tasks), kind_of(tasks)
    with (
        stopped_by_sigterm(),
        Store(path, models, kind) as store,
        staying_alive(path, models, kind, owner),
    ):
        try:
            while True:
                for task in tasks:
                    _work_on(task, tasks, store, owner, workers, progress)
                done, total = report(store, tasks, progress)
                if done == total:
                    return
                time.sleep(_LOOK_AGAIN)
                store.release_the_gone()
        finally:
            store.release(owner)


def names_of(tasks: Sequence[Task]) -> dict[str, str]:
    """The models' names by fingerprint."""
    return {task.fingerprint: task.name for task in tasks}


def report(store: Store, tasks: Sequence[Task], progress: Progress | None) -> tuple[int, int]:
    """How many cells of all tasks are settled, and how many there are; told to `progress`."""
    counts = [store.count(task.keys) for task in tasks]
    total = sum(len(set(task.keys)) for task in tasks)  # a job that is asked for twice is done once
    done = sum(count["done"] + count["failed"] for count in counts)
    if progress is not None:
        progress("cells", done, total)
    return done, total


def _work_on(
    task: Task, tasks: Sequence[Task], store: Store, owner: str, workers: int, progress: Progress | None
) -> None:
    store.release_the_gone()
    if not store.count(task.keys)["free"]:
        return
    with task.opened() as worker:
        while free := store.count(task.keys)["free"]:
            claimed = store.claim(task.keys, owner, min(worker.together, -(-free // workers)))
            if not claimed:
                return
            results = worker.do(claimed)
            store.finish({each.key: result for each, result in zip(claimed, results, strict=True)})
            report(store, tasks, progress)


@contextlib.contextmanager
def staying_alive(path: Path, models: dict[str, str], kind: Kind, owner: str) -> Iterator[None]:
    """A thread that renews the owner's claims: one claim's work may take longer than the lease."""
    stop = threading.Event()

    def beat() -> None:
        with contextlib.suppress(SuperweightsError), Store(path, models, kind) as store:
            while not stop.wait(LEASE / 4):
                store.renew(owner)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
