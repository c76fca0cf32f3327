"""`superweights adapt drift`."""

from __future__ import annotations

from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Chosen, Output, grouped

Base = Annotated[str, typer.Option(help="The base that it was made from.")]


@grouped
def drift(model: options.Model, against: Base, held: Chosen = Chosen(), output: Output = Output()) -> None:
    """How far a fine-tuned model is from its base, and what became of the base's super weights. No model runs.

    Example: superweights adapt drift smollm2-arithmetic --against embedded
    """
    from superweights import drift as verb

    with console.progress() as bar:
        record = verb(model, against, held.weights or (), record=held.from_, progress=bar)
    output.finish(record)
