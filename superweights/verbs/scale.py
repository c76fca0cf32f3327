"""`superweights.scale`: what a model scores with weights multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweights.address import Address
from superweights.editing import scale as scaled
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject import Reading
from superweights.verbs.score import score_rows


def scale(
    model: Any,
    weights: Sequence[Address | str] | Address | str,
    factors: Sequence[float],
    reading: Reading = Reading(),  # noqa: B008 - frozen
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Effects`: the model with all `weights` multiplied by each of `factors` in turn.

    `model` as in `score`. 0 ablates, 1 restores, -1 flips the sign.

    >>> record = scale("embedded", "model.layers.11.mlp.down_proj.weight[507, 1229]", [0.5, 2])   # doctest: +SKIP
    """
    addresses = Address.several(weights)
    rows = [(f"{factor:g} times", scaled(addresses, factor)) for factor in factors]
    return score_rows("scale", model, rows, reading, seed=seed, progress=progress)
