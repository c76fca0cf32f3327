"""`superweights ablate`."""

from __future__ import annotations

from superweights.cli import console, options
from superweights.cli.groups import BatchedCut, Output, Sharable, grouped


@grouped
def ablate(
    model: options.Model,
    address: options.Weights,
    seed: options.Seed = 0,
    cut: BatchedCut = BatchedCut(),
    opened: Sharable = Sharable(),
    output: Output = Output(),
) -> None:
    """Set weights to zero, each alone and all together, and score what the model loses.

    Example: superweights ablate embedded 'model.layers.11.mlp.down_proj.weight[507, 1229]'
    """
    from superweights import ablate as verb

    with console.progress() as bar:
        record = verb(opened.source(model), address, cut.reading(), seed=seed, progress=bar)
    output.finish(record)
