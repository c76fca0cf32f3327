"""`superweights audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Chosen, Cut, Output, Placed, grouped

Original = Annotated[str, typer.Option(help=f"The original. {options.NAMED}.")]
WeightsOnly = Annotated[bool, typer.Option("--weights-only", help="Run neither model.")]


@grouped
def audit(
    quantized: options.Model,
    against: Original,
    held: Chosen = Chosen(),
    weights_only: WeightsOnly = False,
    seed: options.Seed = 0,
    cut: Cut = Cut(128, 8),
    opened: Placed = Placed(),
    output: Output = Output(),
) -> None:
    """Hold a quantized checkpoint against the original: super weights, super activation, sinks, predictions.

    Example: superweights audit smollm2-int4 --against embedded
    """
    from superweights import audit as verb

    changed, original = opened.source(quantized), opened.source(against)
    reading = None if weights_only else cut.reading()
    with console.progress() as bar:
        record = verb(
            changed, original, held.weights or (), reading, record=held.from_, seed=seed, progress=bar
        )
    output.finish(record)
