"""`superweights ablate`."""

from __future__ import annotations

from superweights.cli import console, options
from superweights.cli.effects import show_effects
from superweights.cli.printing import finish


def ablate(
    model: options.Model,
    address: options.Weights,
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
    """Set weights to zero, each alone and all together, and score what the model loses.

    Example: superweights ablate embedded 'model.layers.11.mlp.down_proj.weight[507, 1229]'
    """
    from superweights.subject import Reading, Source
    from superweights.verbs.ablate import ablate as verb

    console.check_out(out)
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, None, bos, batch_size)
    with console.progress() as bar:
        record = verb(source, address, reading, seed=seed, progress=bar)
    finish(record, as_json, out, show_effects)
