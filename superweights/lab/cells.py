"""Runs in worker processes: the one place that knows how many run at once. A run that was killed is begun again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from superweights.errors import SuperweightsError
from superweights.lab.recipe import Recipe
from superweights.progress import Progress, silent

# So often a broken pool of workers is made anew.
_DEATHS = 3


@dataclass(frozen=True)
class Work:
    """One run: what, into which folder, and where text tasks keep their tokens."""

    recipe: Recipe
    """What is trained."""
    folder: str
    cache: str
    """Where text tasks keep their tokens."""


def work_through(
    works: Sequence[Work], workers: int, told: Callable[[str, int], None], within: Progress
) -> None:
    """Do all of `works`. `told(label, done)` hears after each; with one worker, `within` hears from inside a run.

    Raises `SuperweightsError` where workers die again and again; what is done stays done.
    """
    if workers == 1:
        for number, work in enumerate(works):
            told(work.recipe.name, number)
            _do(work, within if len(works) == 1 else _relabelled(told, number))
            told(work.recipe.name, number + 1)
        return
    left, deaths = list(works), 0
    while left:
        try:
            left = _in_pool(left, workers, lambda label, n: told(label, len(works) - n))
        except _PoolBrokenError as broken:
            left, deaths = broken.left, deaths + 1
            if deaths == _DEATHS:
                raise SuperweightsError(
                    f"Workers were killed {deaths} times, the last while {left[0].recipe.name} was trained.",
                    hint="see whether memory ran out; with --workers 1 it says why. The same command goes on.",
                ) from None


class _PoolBrokenError(Exception):
    """A worker died; `left` are the works without a result."""

    def __init__(self, left: list[Work]):
        super().__init__()
        self.left = left


def _in_pool(works: Sequence[Work], workers: int, told: Callable[[str, int], None]) -> list[Work]:
    """Do `works` in `workers` processes; an empty list when all are done."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        running = {pool.submit(_do, work): work for work in works}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    work = running.pop(future)
                    told(work.recipe.name, len(running))
        except BrokenProcessPool as error:
            raise _PoolBrokenError(list(running.values())) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return []


def _begin_worker() -> None:
    import torch

    torch.set_num_threads(1)


def _do(work: Work, progress: Progress | None = None) -> None:
    """One run, in whatever process this is."""
    from superweights.lab.training import train

    train(work.recipe, work.folder, cache=work.cache, progress=progress or silent)


def _relabelled(told: Callable[[str, int], None], number: int) -> Progress:
    """Steps of one run as a label of the suite's bar, which counts runs."""
    return lambda label, done, total: told(f"{label} ({done}/{total})", number)
