"""`superweights scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.effects import show_effects
from superweights.cli.printing import finish


def scale(
    model: options.Model,
    address: options.Weights,
    factor: Annotated[
        list[float], typer.Option(help="Multiply by this (0 ablates, -1 flips the sign); repeatable.")
    ],
    text: options.TextFile = None,
    window: options.Window = 512,
    windows: options.Windows = 24,
    bos: options.Bos = "auto",
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Multiply weights by each factor in turn, and score the model each time.

    Example: superweights scale embedded 'model.layers.11.mlp.down_proj.weight[507, 1229]' --factor 0.5
    """
    from superweights.subject import Reading, Source
    from superweights.verbs.scale import scale as verb

    console.check_out(out)
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, None, bos, batch_size)
    with console.progress() as bar:
        record = verb(source, address, factor, reading, seed=seed, progress=bar)
    finish(record, as_json, out, show_effects)
