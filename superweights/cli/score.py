"""`superweights score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.effects import show_effects
from superweights.cli.printing import finish


def score(
    model: options.Model,
    edit: options.Edits = None,
    text: options.TextFile = None,
    window: options.Window = 512,
    windows: options.Windows = 24,
    stride: options.Stride = None,
    bos: options.Bos = "auto",
    passages: Annotated[
        Path | None, typer.Option(help="JSON lines with a text each: is the last word predicted?")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="The first so many passages.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Continue this before and after the edits; repeatable.")
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write after each prompt.")] = 30,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest token; else sample.")] = 0.0,
    shift: Annotated[bool, typer.Option("--shift", help="Which tokens gain and lose probability.")] = False,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Score a model on a text, as it is and with edited weights.

    Example: superweights score embedded --edit 'model.layers.11.mlp.down_proj.weight[507, 1229]=0'
    """
    from superweights.subject import Reading, Source
    from superweights.verbs.score import Passages, Writing
    from superweights.verbs.score import score as verb

    console.check_out(out)
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, stride, bos, batch_size)
    asked = Passages(passages, count) if passages is not None else None
    writing = Writing(tuple(prompt or ()), new_tokens, temperature, shift)
    with console.progress() as bar:
        record = verb(source, edit or (), reading, passages=asked, writing=writing, seed=seed, progress=bar)
    finish(record, as_json, out, show_effects)
