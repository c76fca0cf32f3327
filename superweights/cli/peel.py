"""`superweights peel`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options

if TYPE_CHECKING:
    from superweights.verbs.peel import SideCar

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
    from superweights.verbs.peel import peel as verb

    source = options.source(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    with console.progress() as bar:
        side_car = verb(source, to, weights or (), record=from_, progress=bar)
    if as_json:
        console.print_line(json.dumps({"to": str(to), **json.loads(side_car.to_json())}))
    else:
        _show(side_car, to)


def _show(side_car: SideCar, to: Path) -> None:
    show = console.data.print
    show(f"[bold]{console.plain(str(to))}[/]: the model with 0 in these places, and super_weights.json:")
    for kept in side_car.weights:
        show(f"  {console.plain(str(kept.address))} = {kept.value:.6g}", soft_wrap=True, highlight=False)
    show(
        f"Next: quantize it with any tool, then superweights attach QUANTIZED --side-car {console.plain(str(to))} "
        "--to ADAPTER.",
        soft_wrap=True,
        highlight=False,
    )
