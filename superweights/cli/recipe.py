"""`superweights recipe`."""

from __future__ import annotations

import json
from dataclasses import asdict
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
    from superweights.verbs.recipe import recipe as verb

    source = options.source(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    recipes = verb(source, tool or (), weights or (), record=from_, to=to)
    if as_json:
        console.print_line(json.dumps([asdict(each) for each in recipes]))
        return
    for each in recipes:
        console.data.print(f"[bold]{each.tool}[/]", highlight=False)
        for line in each.lines():
            console.data.print(f"  {console.plain(line)}", soft_wrap=True, highlight=False)
