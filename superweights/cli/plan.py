"""`superweights plan`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Cut, Output, Placed, grouped

Bits = Annotated[float, typer.Option(help="Stored bits per weight of the rounded matrices, scales included.")]
Format = Annotated[
    str, typer.Option("--format", help="packed, compressed-tensors, gguf: whose schemes to choose among.")
]
Save = Annotated[
    Path | None, options.in_output(help="Write the plan here, for superweights quantize --plan.")
]


@dataclass(frozen=True)
class Halves(Cut):
    """A text of which one half measures and the other checks."""

    windows: Annotated[
        int, options.in_text(min=2, help="Windows of text: the first half measures, the second checks.")
    ] = 4


@grouped
def plan(
    model: options.Model,
    bits: Bits = 4.25,
    format_: Format = "packed",
    keep: options.Keep = None,
    from_: options.FromRecord = None,
    seed: options.Seed = 0,
    cut: Halves = Halves(128, 4),
    opened: Placed = Placed(),
    save: Save = None,
    plot: options.Picture = None,
    output: Output = Output(),
) -> None:
    """Spend a bit budget over a model's matrices by measured sensitivity, super weights kept exactly.

    Example: superweights plan embedded --bits 4.25 --save plan.json
    """
    from superweights import plan as verb

    how = {"format": format_, "keep": keep or ["known"], "record": from_, "save": save, "plot": plot}
    with console.progress() as bar:
        record = verb(opened.source(model), bits, cut.reading(), seed=seed, progress=bar, **how)
    output.finish(record)
