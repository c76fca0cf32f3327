"""The same jobs on a Ray cluster. The only file that knows Ray (extra `ray`).

The process that asked holds the store, claims jobs for its actors and writes what they send back, because
SQLite cannot be shared over a network. Every machine must find the checkpoint under the same name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from superweights.errors import SuperweightsError
from superweights.jobs.kind import Task, Worker, kind_of
from superweights.jobs.owner import new_owner
from superweights.jobs.store import Store
from superweights.jobs.work import names_of, report, staying_alive
from superweights.progress import Progress
from superweights.stopping import stopped_by_sigterm

try:
    import ray
    from ray.exceptions import RayActorError
except ImportError as missing:
    raise SuperweightsError(
        "Ray is not installed.", hint="pip install 'superweights[ray]', or use --workers without --ray."
    ) from missing

# So many deaths for each worker are made good before the sweep is given up.
_DEATHS = 3
_LOOK_AGAIN = 0.5
_NUMBERS = count()
# Jobs that an actor is given at a time.
_MOST_TOGETHER = 32


def work_on_ray(path: Path, tasks: Sequence[Task], workers: int, progress: Progress | None = None) -> None:
    """Do the open jobs of `tasks` with `workers` actors; returns when none is left.

    Uses the cluster that RAY_ADDRESS names, or the one that is running, or starts one on this machine for as
    long as it takes. An actor that dies is replaced and its jobs are done again. Actors get a GPU each
    where the cluster has enough of them.
    """
    kind = kind_of(tasks)
    with stopped_by_sigterm(), _cluster(), Store(path, names_of(tasks), kind) as store, ExitStack() as alive:
        gpus = ray.cluster_resources().get("GPU", 0) >= workers
        options = {"num_gpus": 1} if gpus else {}
        crew = [_Hand(options, path, tasks, alive) for _ in range(workers)]
        deaths_left = _DEATHS * workers
        try:
            while True:
                store.release_the_gone()
                for hand in crew:
                    hand.take_up(store, tasks, workers)
                busy = {hand.future: hand for hand in crew if hand.future is not None}
                done, total = report(store, tasks, progress)
                if not busy and done == total:
                    return
                finished, _ = ray.wait(list(busy), timeout=_LOOK_AGAIN) if busy else ([], [])
                for future in finished:
                    deaths_left -= not busy[future].deliver(store)
                if deaths_left < 0:
                    raise SuperweightsError(
                        "The workers keep dying.",
                        hint="memory may have run out: use fewer workers. What is done is kept.",
                    )
        finally:
            for hand in crew:
                hand.stop(store)


class _Actor:
    """Holds one subject at a time, and does jobs on it."""

    def __init__(self):
        self._stack = ExitStack()
        self._worker: tuple[str, Worker] | None = None

    def do(self, task: Task, payloads: list[str]) -> list[tuple[Any, str, str]] | tuple[str, str]:
        """Of each job its result (or None), sentence and hint; or one sentence and hint where the subject cannot be
        opened at all."""
        try:
            worker = self._opened(task)
        except SuperweightsError as error:
            return error.message, error.hint
        results = worker.do([task.kind.payload.from_json(text) for text in payloads])
        return [
            (None, r.message, r.hint) if isinstance(r, SuperweightsError) else (r, "", "") for r in results
        ]

    def _opened(self, task: Task) -> Worker:
        if self._worker is None or self._worker[0] != task.fingerprint:
            self._stack.close()
            self._worker = task.fingerprint, self._stack.enter_context(task.opened())
        return self._worker[1]


class _Hand:
    """One actor from the side that asks: what it has been given, and its replacement when it dies."""

    def __init__(self, options: dict[str, Any], path: Path, tasks: Sequence[Task], alive: ExitStack):
        self._options = options
        self._owner = new_owner()
        self._claimed: list[Any] = []
        self.future: Any = None
        alive.enter_context(staying_alive(path, names_of(tasks), kind_of(tasks), self._owner))
        self._actor = self._start()

    def _start(self) -> Any:
        name = f"superweights jobs {os.getpid()}-{next(_NUMBERS)}"
        return ray.remote(_Actor).options(name=name, **self._options).remote()

    def take_up(self, store: Store, tasks: Sequence[Task], workers: int) -> None:
        """Give the actor jobs, if it has none and some are free."""
        for task in tasks if self.future is None else ():
            free = store.count(task.keys)["free"]
            share = min(_MOST_TOGETHER, -(-free // workers))
            self._claimed = store.claim(task.keys, self._owner, share) if free else []
            if self._claimed:
                payloads = [each.to_json() for each in self._claimed]
                self.future = self._actor.do.remote(task, payloads)
                return

    def deliver(self, store: Store) -> bool:
        """Write what the actor has sent; False when it has died, and another stands in its place."""
        future, self.future = self.future, None
        try:
            sent = ray.get(future)
        except RayActorError:
            store.release(self._owner, died=True)
            self._actor = self._start()
            return False
        if isinstance(sent, tuple):
            raise SuperweightsError(sent[0], hint=sent[1])
        results = [SuperweightsError(said, hint=hint) if said else result for result, said, hint in sent]
        store.finish({each.key: result for each, result in zip(self._claimed, results, strict=True)})
        return True

    def stop(self, store: Store) -> None:
        """Give up what is not delivered, and let the actor go."""
        store.release(self._owner)
        ray.kill(self._actor)


@contextmanager
def _cluster() -> Iterator[None]:
    """A connection to Ray: the one that is there, or one for the length of the `with`."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SuperweightsError(
            f"Ray cannot be reached: {str(error).splitlines()[0]}",
            hint="check RAY_ADDRESS, or unset it to start Ray on this machine.",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
