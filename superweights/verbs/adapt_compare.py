"""`superweights.adapt_compare`: SVF beside LoRA, single weights and controls, on tasks and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from superweights.adaptation.comparing import SINGLE, Arms, gains
from superweights.adaptation.comparison_jobs import compare
from superweights.adaptation.manner import Manner
from superweights.address import Address
from superweights.checkpoint import opened_checkpoint
from superweights.checkpoint.loaded import is_loaded
from superweights.errors import SuperweightsError
from superweights.findings.adaptation import Compared
from superweights.index.choice import some_weights
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.stopping import kept_in
from superweights.subject import Source
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
    store: Path | str | None = None,
    workers: int = 1,
    ray: bool = False,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Compared`. `tasks` are names of made ones or files; a seed is a split of each and a run.

    Results are kept in the file `store` as they come, and a comparison that was ended at any moment goes on from there
    when it is called again. `workers` processes, or with `ray` actors of a Ray cluster, share the runs. A run that
    cannot be made is told in `failed`, and costs the others nothing.
    """
    source = Source.of(model)
    if (workers > 1 or ray) and is_loaded(source.name):
        raise SuperweightsError(
            "Several workers open the model again, and a loaded model has no name to open it by.",
            hint="save it with save_pretrained and give the folder.",
        )
    kept = None if store is None else Path(store)
    with opened_checkpoint(source) as checkpoint:
        if set(arms.arms) & set(SINGLE) and (not arms.count or "super" in arms.arms):
            chosen = some_weights(checkpoint, arms.addresses, by_record=False)
            arms = replace(arms, addresses=chosen.addresses)
        how: dict[str, Any] = {"store": kept, "workers": workers, "ray": ray, "progress": progress}
        subject = source, checkpoint.name, checkpoint.fingerprint()
        with kept_in(kept) if kept is not None else nullcontext():
            results, failed = compare(*subject, tasks, range(seeds), arms, reward, manner, **how)
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
        found = Compared(rows, [asdict(result) for result in results], failed)
        return Record.of("adapt compare", checkpoint, seed=manner.seed, findings=found)


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
