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
            help="llama.cpp, gptqmodel, llm-compressor, torchao, bitsandbytes, mlx; repeatable. "
            "Without it: all.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="TENSOR[i, j]; repeatable. Without it: those of --from, or the known ones."),
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Record of 'superweights find --out': its super weights.")
    ] = None,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Print what makes other quantizers leave the matrices with super weights alone.

    Example: superweights recipe embedded --for llama.cpp
    """
    import json
    from dataclasses import asdict

    from superweights.address import Address
    from superweights.checkpoint import open_checkpoint
    from superweights.cli.weights import weights_of
    from superweights.formats.recipes import TOOLS
    from superweights.formats.recipes import recipe as for_tool

    with open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint:
        chosen = [Address.parse(each) for each in weights or []] or weights_of(checkpoint, from_)
        recipes = [for_tool(checkpoint, chosen, each) for each in tool or TOOLS]
    if as_json:
        console.print_line(json.dumps([asdict(each) for each in recipes]))
        return
    for each in recipes:
        console.data.print(f"[bold]{each.tool}[/]", highlight=False)
        console.data.print(f"  {console.plain(each.text)}", soft_wrap=True, highlight=False)
