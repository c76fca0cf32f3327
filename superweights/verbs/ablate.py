"""`superweights.ablate`: what a model loses without weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweights.address import Address
from superweights.editing import zero
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject import Reading
from superweights.verbs.score import score_rows


def ablate(
    model: Any = None,
    weights: Sequence[Address | str] | Address | str = (),
    reading: Reading = Reading(),  # noqa: B008 - frozen
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Effects`: the model without each of `weights`, and without all of them together.

    `model` as in `score`. Raises `SuperweightsError` for an address that is not in the checkpoint.

    >>> record = ablate("embedded", "model.layers.11.mlp.down_proj.weight[507, 1229]")     # doctest: +SKIP
    """
    addresses = Address.several(weights)
    rows = [(f"{number} gone", zero(weight)) for number, weight in enumerate(addresses, 1)]
    if len(addresses) > 1:
        rows.append((f"all {len(addresses)} gone", zero(addresses)))
    return score_rows("ablate", model, rows, reading, seed=seed, progress=progress)
