"""`superweights activations`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import BatchedCut, Opened, Output, grouped


@grouped
def activations(
    model: options.Model,
    scale: Annotated[
        list[str] | None, typer.Option(help="token, tensor or static; repeatable. All three by default.")
    ] = None,
    weights: Annotated[str, typer.Option(help="int8 per channel, int4 in groups of 64, or none.")] = "int8",
    bits: Annotated[int, typer.Option(min=2, max=8, help="Bits of the rounded inputs.")] = 8,
    held: Annotated[
        float | None, typer.Option(min=0.1, help="Hold out beyond so many root mean squares.")
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="SmoothQuant's alpha.")] = 0.5,
    layers: Annotated[int, typer.Option(min=0, help="Also show the layers that gain most, so many.")] = 0,
    calibrate_on: Annotated[
        Path | None, typer.Option(help="Text file to calibrate on, instead of built-in prose.")
    ] = None,
    seed: options.Seed = 0,
    cut: BatchedCut = BatchedCut(windows=4),
    opened: Opened = Opened(),
    output: Output = Output(),
) -> None:
    """Round the inputs of linear layers: plain, super activations held out, clipped, SmoothQuant.

    Example: superweights activations embedded --scale tensor --layers 5
    """
    from superweights import activations as verb
    from superweights.verbs.activations import Ways

    ways = Ways(scale or Ways.scales, weights, bits, held, alpha, calibrate_on, layers)
    with console.progress() as bar:
        record = verb(opened.source(model), cut.reading(), ways, seed=seed, progress=bar)
    output.finish(record)
