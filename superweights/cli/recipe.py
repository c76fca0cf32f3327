"""`superweights recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options


def recipe(
    model: options.Model,
    tool: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            help="llama.cpp, gptqmodel, llm-compressor, torchao, bitsandbytes, auto-round, mlx; repeatable. "
            "Without it: all.",
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="A new file that the tool of --for reads.")] = None,
    weights: options.NamedWeights = None,
    from_: options.FromRecord = None,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Print what makes other quantizers leave the matrices with super weights alone.

    Example: superweights recipe embedded --for llama.cpp
    """
    import json
    from dataclasses import asdict

    from superweights.checkpoint import open_checkpoint
    from superweights.cli.weights import chosen_weights
    from superweights.formats.recipes import TOOLS, NoRecipe, recipes, write_recipe

    with open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint:
        found = recipes(checkpoint, chosen_weights(checkpoint, weights, from_), tool or tuple(TOOLS))
    if to is not None:
        write_recipe(found, to)
    if as_json:
        console.print_line(json.dumps([asdict(each) for each in found]))
        return
    for each in found:
        console.data.print(f"[bold]{each.tool}[/]", highlight=False)
        lines = (
            [f"none: {each.reason}", each.hint] if isinstance(each, NoRecipe) else [each.text, *each.notes]
        )
        for line in lines:
            console.data.print(f"  {console.plain(line)}", soft_wrap=True, highlight=False)
