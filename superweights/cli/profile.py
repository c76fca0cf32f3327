"""`superweights profile`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Cut, Opened, Output, grouped

Rounding = Annotated[bool, typer.Option(help="Also measure what eight to three bits cost.")]
Searched = Annotated[bool, typer.Option("--search", help="Also look for super weights.")]


@dataclass(frozen=True)
class ProfiledCut(Cut):
    """Windows long enough for rates of sinks."""

    window: Annotated[int, options.in_text(min=4, help="Tokens in a window.")] = 64


@grouped
def profile(
    model: options.ModelOrEmbedded = None,
    rounding: Rounding = True,
    search: Searched = False,
    seed: options.Seed = 0,
    cut: ProfiledCut = ProfiledCut(64, 8),
    opened: Opened = Opened(dtype="float32"),
    output: Output = Output(),
) -> None:
    """Measure sinks, outliers in every sense, and rounding penalties of a model, as the lab does.

    Example: superweights profile embedded
    """
    from superweights import profile as verb

    how = {"rounding": rounding, "search": search, "seed": seed}
    with console.progress() as bar:
        record = verb(opened.source(model), cut.reading(), progress=bar, **how)
    output.finish(record)
