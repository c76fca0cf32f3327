"""`superweights facts`: where a model's extreme numbers are, as JSON for other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.printing import finish

if TYPE_CHECKING:
    from superweights.record import Record


def facts(
    model: options.ModelOrEmbedded = None,
    text: options.TextFile = None,
    window: options.Window = 64,
    windows: options.Windows = 16,
    bos: options.Bos = "auto",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the facts.")] = False,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Massive channels, tokens and layers, attention sinks, float16 room per site, underflow per tensor.

    For tools that edit, probe, cache or quantize: the JSON is `findings` of the record, its layout is --schema.

    Example: superweights facts embedded --out facts.json
    """
    if schema:
        _print_schema()
        return
    from superweights.subject import Reading
    from superweights.verbs.facts import facts as verb

    console.check_out(out)
    source = options.source(model, dtype, device, allow_pickle, trust_remote_code)
    with console.progress() as bar:
        record = verb(source, Reading(text, window, windows, bos=bos), progress=bar)
    finish(record, as_json, out, show_record)


def _print_schema() -> None:
    from superweights.findings.facts import json_schema
    from superweights.record import to_json_line

    console.print_line(to_json_line(json_schema()))


def show_record(record: Record) -> None:
    found = record.findings
    show = lambda text: console.data.print(console.plain(text), soft_wrap=True)  # noqa: E731
    massive = [layer for layer in found.massive if layer.channels]
    if massive:
        top = max(massive, key=lambda layer: layer.largest)
        channels = sorted({c for layer in massive for c in layer.channels})
        show(
            f"massive channels {', '.join(map(str, channels))} in layers {massive[0].layer} to {massive[-1].layer}; "
            f"largest {top.largest:,.0f} after layer {top.layer}, at positions {', '.join(map(str, top.positions))} "
            f"({', '.join(map(repr, top.tokens))})."
        )
    else:
        show("no massive activation.")
    if found.sinks:
        strongest = max(found.sinks, key=lambda layer: layer.mass)
        show(
            f"sink: {strongest.mass:.0%} of the attention of layer {strongest.layer} goes to the first token."
        )
    least = min(found.sites, key=lambda site: site.fp16_headroom)
    show(
        f"float16: the largest number, {least.largest:,.4g} ({least.site} of layer {least.layer}), fits "
        f"{least.fp16_headroom:.3g} times."
    )
    for worst in sorted(found.tensors, key=lambda t: -(t.nvfp4_blocks_zero + t.nvfp4_blocks_subnormal))[:5]:
        show(
            f"{worst.tensor}: NVFP4 scales that are 0 {worst.nvfp4_blocks_zero:.2%}, subnormal "
            f"{worst.nvfp4_blocks_subnormal:.2%}; FP8 weights that become 0 {worst.fp8_weights_zero:.2%}."
        )
