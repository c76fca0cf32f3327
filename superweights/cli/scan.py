"""`superweights scan`: what the weights alone show."""

from __future__ import annotations

from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Lines, Trust, grouped

Top = Annotated[int, typer.Option(min=1, help="How many rows, neurons and tensors to show.")]
Spectrum = Annotated[bool, typer.Option("--spectrum", help="Exact norm and spectrum of the top rows.")]


@grouped
def scan(
    model: options.ModelOrEmbedded = None,
    top: Top = 10,
    spectrum: Spectrum = False,
    allow_pickle: options.AllowPickle = False,
    output: Lines = Lines(),
) -> None:
    """Rank rows, neurons and tensors by their weights alone: no forward pass, one tensor in memory.

    It tells where to look, not what matters: prove suspects with superweights find.

    Example: superweights scan ./my-llama --top 5
    """
    from superweights import scan as verb

    source = Trust(allow_pickle).source(model)
    with console.progress("scanning") as bar:
        record = verb(source, top=top, spectrum=spectrum, progress=bar)
    output.finish(record)
