"""`superweights ablate`."""

from __future__ import annotations

from typing import Annotated

import typer

from superweights.cli import options
from superweights.cli.score import progress, show


def ablate(
    model: options.Model,
    address: Annotated[list[str], typer.Argument(help="TENSOR[i, j] of one weight or several.")],
    text: options.TextFile = None,
    window: options.Window = 512,
    windows: options.Windows = 24,
    bos: options.Bos = False,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Set weights to zero, each alone and all together, and score what the model loses.

    Example: superweights ablate embedded 'model.layers.11.mlp.down_proj.weight[507, 1229]'
    """
    from superweights.address import Address
    from superweights.cli.scoring import Reading, Source, measure
    from superweights.editing import zero

    weights = [Address.parse(each) for each in address]
    rows = [(f"{number} gone", zero(weight)) for number, weight in enumerate(weights, 1)]
    if len(weights) > 1:
        rows.append((f"all {len(weights)} gone", zero(weights)))
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, None, bos, batch_size)
    with progress() as bar:
        record = measure("ablate", source, reading, rows, seed=seed, progress=bar)
    show(record, as_json, out)
