"""`superweights peel`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.console import progress

To = Annotated[Path, typer.Option(help="A new folder.")]


def peel(
    model: options.Model,
    to: To,
    weights: options.NamedWeights = None,
    from_: options.FromRecord = None,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Split a model into a base without its super weights, for any quantizer, and a side-car that holds them.

    superweights attach puts them back beside the quantized base.

    Example: superweights peel embedded --to smollm2-peeled
    """
    import json

    from superweights.checkpoint import open_checkpoint
    from superweights.cli.weights import chosen_weights
    from superweights.quantization.peel import SIDE_CAR
    from superweights.quantization.peel import peel as split
    from superweights.stream.linears import linear_tensors

    with open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint:
        chosen = chosen_weights(checkpoint, weights, from_)
        transposed = [name for name, axis in linear_tensors(checkpoint).items() if axis == 1]
        with progress() as bar:
            side_car = split(
                checkpoint,
                chosen,
                to,
                transposed=transposed,
                progress=lambda _, done, total: bar("tensors", done, total),
            )
    if as_json:
        console.print_line(json.dumps({"to": str(to), **json.loads(side_car.to_json())}))
        return
    console.data.print(
        f"[bold]{console.plain(str(to))}[/]: the model with 0 in these places, and {SIDE_CAR}:"
    )
    for kept in side_car.weights:
        console.data.print(
            f"  {console.plain(str(kept.address))} = {kept.value:.6g}", soft_wrap=True, highlight=False
        )
    console.data.print(
        f"Next: quantize it with any tool, then superweights attach QUANTIZED --side-car {console.plain(str(to))} "
        "--to ADAPTER.",
        soft_wrap=True,
        highlight=False,
    )
