"""`superweights.peel`: a model split into a base without its super weights, and a side-car that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.checkpoint import opened_checkpoint
from superweights.index.choice import some_weights
from superweights.progress import Progress, labelled, silent
from superweights.quantization.peel import peel as split
from superweights.quantization.sidecar import SideCar
from superweights.record import Record
from superweights.stream.linears import linear_tensors

__all__ = ["SideCar", "peel"]


def peel(
    model: Any,
    to: Path | str,
    weights: Sequence[Address | str] = (),
    *,
    record: Record | Path | str | None = None,
    progress: Progress = silent,
) -> SideCar:
    """The side-car that was written to the new folder `to`, beside the model with 0 in those places.

    The weights are those named, else those of a `record` that `find` wrote, else the known ones. Raises
    `SuperweightsError` where there are none. `attach` puts them back beside any quantizer's model.

    >>> side_car = peel("embedded", "smollm2-peeled")     # doctest: +SKIP
    """
    with opened_checkpoint(model) as checkpoint:
        chosen = some_weights(checkpoint, weights, record).addresses
        transposed = [name for name, axis in linear_tensors(checkpoint).items() if axis == 1]
        told = labelled(progress, "tensors")
        return split(checkpoint, chosen, Path(to), transposed=transposed, progress=told)
