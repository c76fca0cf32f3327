"""`superweights prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Chosen, Cut, Output, Placed, Shared, grouped

What = Annotated[
    str,
    typer.Option(
        help="attention, mlp, block, joint (attentions and MLPs in one order), run (blocks in a row)."
    ),
]
Drop = Annotated[int, typer.Option(min=1, help="How many: the most redundant ones.")]
Layers = Annotated[
    str | None, typer.Option(help="Drop these instead, such as 25,26 (with attention, mlp or block).")
]
To = Annotated[Path | None, options.in_output(help="Write the pruned checkpoint into this new folder.")]
Carriers = Annotated[
    bool, typer.Option("--carriers", help="Drop even what carries a super weight or massive activation.")
]
Draws = Annotated[int, typer.Option(min=0, help="Random choices of as many, as controls.")]


@grouped
def prune(
    model: options.Model,
    what: What = "attention",
    drop: Drop = 4,
    layers: Layers = None,
    held: Chosen = Chosen(),
    carriers: Carriers = False,
    draws: Draws = 3,
    seed: options.Seed = 0,
    cut: Cut = Cut(128, 32),
    opened: Placed = Placed(),
    to: To = None,
    shared: Shared = Shared(),
    output: Output = Output(),
) -> None:
    """Drop whole attentions, MLPs or blocks: those that change the residual stream least (LLM-Drop).

    Half of the text chooses, the other half says what it costs, beside random choices of as many. Without --to
    nothing is written.

    Example: superweights prune embedded --what attention --drop 4 --to smollm2-pruned
    """
    from superweights import Dropping
    from superweights import prune as verb

    dropping = Dropping(what, drop, Dropping.parse_layers(layers), carriers, draws)
    asked = {"to": to, "weights": held.weights or (), "record": held.from_, "seed": seed}
    with console.progress() as bar:
        record = verb(opened.source(model), dropping, cut.reading(), progress=bar, **asked)
    output.finish(record)
    shared.push(to, record)
