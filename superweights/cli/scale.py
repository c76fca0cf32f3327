"""`superweights scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import BatchedCut, Output, Sharable, grouped


@grouped
def scale(
    model: options.Model,
    address: options.Weights,
    factor: Annotated[
        list[float], typer.Option(help="Multiply by this (0 ablates, -1 flips the sign); repeatable.")
    ],
    seed: options.Seed = 0,
    cut: BatchedCut = BatchedCut(),
    opened: Sharable = Sharable(),
    output: Output = Output(),
) -> None:
    """Multiply weights by each factor in turn, and score the model each time.

    Example: superweights scale embedded 'model.layers.11.mlp.down_proj.weight[507, 1229]' --factor 0.5
    """
    from superweights import scale as verb

    with console.progress() as bar:
        record = verb(opened.source(model), address, factor, cut.reading(), seed=seed, progress=bar)
    output.finish(record)
