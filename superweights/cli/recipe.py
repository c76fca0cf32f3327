"""`superweights recipe`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Chosen, Printed, Trust, grouped

Tools = Annotated[
    list[str] | None,
    typer.Option(
        "--for",
        help="llama.cpp, gptqmodel, llm-compressor, torchao, bitsandbytes, auto-round, mlx; repeatable. "
        "Without it: all.",
    ),
]
To = Annotated[Path | None, options.in_output(help="A new file that the tool of --for reads.")]


@grouped
def recipe(
    model: options.Model,
    tool: Tools = None,
    held: Chosen = Chosen(),
    opened: Trust = Trust(),
    to: To = None,
    output: Printed = Printed(),
) -> None:
    """Print what makes other quantizers leave the matrices with super weights alone.

    Example: superweights recipe embedded --for llama.cpp
    """
    from superweights import recipe as verb
    from superweights.tables.handed import recipes

    made = verb(opened.source(model), tool or (), held.weights or (), record=held.from_, to=to)
    if output.as_json:
        console.print_line(json.dumps([asdict(each) for each in made]))
    else:
        console.show(recipes(made))
