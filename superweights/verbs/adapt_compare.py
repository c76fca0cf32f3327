"""`superweights.adapt_compare`: SVF beside LoRA, single weights and controls, on tasks and over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from superweights.adaptation.bench import benched
from superweights.adaptation.comparing import Arms, compare, gains
from superweights.adaptation.made_tasks import task_named
from superweights.adaptation.manner import Manner
from superweights.adaptation.tasks import Task, reward_named
from superweights.address import Address
from superweights.findings.adaptation import Compared
from superweights.index.choice import some_weights
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject.layers import layers_of

# With what its arguments are made of.
__all__ = ["Arms", "Manner", "adapt_compare", "arms_of"]


def adapt_compare(
    model: Any,
    tasks: Sequence[str],
    arms: Arms = Arms(),  # noqa: B008 - frozen
    *,
    seeds: int = 5,
    reward: str = "exact",
    manner: Manner = Manner(),  # noqa: B008 - frozen
    kept: Path | None = None,
    draw: Callable[[str, int], Task] = lambda name, seed: task_named(name, seed=seed),
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Compared`. `draw(name, seed)` makes each task; a seed is a split of it and a run.

    Results are kept in the file `kept` as they come, and a stopped comparison goes on from there.
    """
    with benched(model, progress=progress) as bench:
        if "super" in arms.arms:
            arms = replace(arms, addresses=some_weights(bench.checkpoint, arms.addresses).addresses)
        results = compare(bench, draw, tasks, range(seeds), arms, reward_named(reward), manner, kept)
        rows = [
            {
                "task": task,
                "arm": arm,
                "right": right,
                "gain": gain,
                "parameters": _parameters(results, task, arm),
            }
            for task, arm, right, gain in gains(results)
        ]
        found = Compared(rows, [asdict(result) for result in results])
        return Record.of("adapt compare", bench.checkpoint, seed=manner.seed, findings=found)


def arms_of(
    names: str,
    part: str,
    layers: str | None,
    rate: float,
    lora_rate: float,
    weight_rate: float,
    weights: Sequence[Address | str],
    count: int | None,
) -> Arms:
    """The arms with `names` (commas between them), on the layers written as `0,3` or `20-29`."""
    chosen, addresses = layers_of(layers), tuple(Address.several(weights))
    return Arms(tuple(names.split(",")), part, chosen, rate, lora_rate, weight_rate, addresses, count)


def _parameters(results: Sequence[Any], task: str, arm: str) -> int:
    return next(r.parameters for r in results if (r.task, r.arm) == (task, arm))
