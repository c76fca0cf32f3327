"""Several worker processes on this machine; one that dies is replaced, and its jobs are done again."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from superweights.errors import SuperweightsError
from superweights.jobs.kind import Task, kind_of
from superweights.jobs.store import Store
from superweights.jobs.work import names_of, report, work
from superweights.progress import Progress
from superweights.stopping import EXIT_CODE, Terminated, stopped_by_sigterm

# So many deaths for each worker are made good before the run is given up.
_DEATHS = 3
_LOOK_AGAIN = 0.5
_STOP_SECONDS = 10.0


def work_in_processes(
    path: Path, tasks: Sequence[Task], workers: int, progress: Progress | None = None
) -> None:
    """Do the open jobs of `tasks` with `workers` processes, each of which opens the subject itself.

    Raises
    `SuperweightsError` when a worker cannot begin, or when workers keep dying; results are kept either way.
    """
    tasks = [task.shared(workers) for task in tasks]
    with stopped_by_sigterm():
        crew = _Crew(path, tasks, workers)
        try:
            with Store(path, names_of(tasks), kind_of(tasks)) as store:
                done = total = -1
                while crew.running and (done < total or total < 0):
                    crew.look_after(store)
                    done, total = report(store, tasks, progress)
        finally:
            stopped = crew.stop()
            with Store(path, names_of(tasks), kind_of(tasks)) as store:
                store.release_the_gone(stopped)


class _Crew:
    """The processes that are at work, each with the pipe through which it complains."""

    def __init__(self, path: Path, tasks: Sequence[Task], workers: int):
        self._context = multiprocessing.get_context("spawn")
        self._arguments = path, tasks, workers
        self._deaths_left = _DEATHS * workers
        self.running: dict[SpawnProcess, Connection] = {}
        for _ in range(workers):
            self._start()

    def _start(self) -> None:
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_worker, args=(*self._arguments, there), daemon=True)
        process.start()
        there.close()
        self.running[process] = here

    def look_after(self, store: Store) -> None:
        """Wait a moment; pass on a complaint, replace the dead and let the finished go."""
        wait([process.sentinel for process in self.running], timeout=_LOOK_AGAIN)
        for process in [process for process in self.running if not process.is_alive()]:
            process.join()
            pipe = self.running.pop(process)
            complaint = _said(pipe)
            if complaint is not None:
                raise SuperweightsError(complaint[0], hint=complaint[1])
            if process.exitcode == 0:
                continue
            store.release_the_gone()
            self._deaths_left -= 1
            if self._deaths_left < 0:
                raise SuperweightsError(
                    f"The workers keep dying, the last with exit code {process.exitcode}.",
                    hint="memory may have run out: use fewer workers. What is done is kept.",
                )
            self._start()

    def stop(self) -> frozenset[int]:
        """End what is still at work. Returns the numbers of the processes that did not end by themselves."""
        at_work = [process for process in self.running if process.is_alive()]
        for process in at_work:
            process.terminate()
        for process in self.running:
            process.join(_STOP_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        return frozenset(process.pid for process in at_work if process.pid is not None)


def _worker(path: Path, tasks: Sequence[Task], workers: int, complaints: Connection) -> None:
    """A process's own main function. Ctrl-C is the first process's to handle: it stops us, with SIGTERM."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    try:
        work(path, tasks, workers=workers)
    except SuperweightsError as error:
        complaints.send((error.message, error.hint))
    except Terminated:
        sys.exit(EXIT_CODE)


def _said(pipe: Connection) -> tuple[str, str] | None:
    with suppress(EOFError, OSError):
        if pipe.poll():
            return pipe.recv()
    return None
