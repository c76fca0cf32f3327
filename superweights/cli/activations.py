"""`superweights activations`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.printing import bos_words, cut_words, finish, print_table, share, table, with_error

if TYPE_CHECKING:
    from rich.table import Table

    from superweights.findings import Activations, HeldInput, RoundedLayer
    from superweights.record import Record


def activations(
    model: options.Model,
    scale: Annotated[
        list[str] | None, typer.Option(help="token, tensor or static; repeatable. All three by default.")
    ] = None,
    weights: Annotated[str, typer.Option(help="int8 per channel, int4 in groups of 64, or none.")] = "int8",
    bits: Annotated[int, typer.Option(min=2, max=8, help="Bits of the rounded inputs.")] = 8,
    held: Annotated[
        float | None, typer.Option(min=0.1, help="Hold out beyond so many root mean squares.")
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="SmoothQuant's alpha.")] = 0.5,
    layers: Annotated[int, typer.Option(min=0, help="Also show the layers that gain most, so many.")] = 0,
    text: options.TextFile = None,
    calibrate_on: Annotated[
        Path | None, typer.Option(help="Text file to calibrate on, instead of built-in prose.")
    ] = None,
    window: options.Window = 512,
    windows: options.Windows = 4,
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
    """Round the inputs of linear layers: plain, super activations held out, clipped, SmoothQuant.

    Example: superweights activations embedded --scale tensor --layers 5
    """
    from superweights.subject import Reading, Source
    from superweights.verbs.activations import Ways
    from superweights.verbs.activations import activations as verb

    console.check_out(out)
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, None, bos, batch_size)
    ways = Ways(scale or Ways.scales, weights, bits, held, alpha, calibrate_on, layers)
    with console.progress() as bar:
        record = verb(source, reading, ways, seed=seed, progress=bar)
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    """The table, the layers that gain most, and the conditions."""
    found: Activations = record.findings
    rows = table("inputs rounded", "perplexity", "KL, nats", "same top", "held out")
    rows.add_row("not at all", with_error(found.base), "", "", "")
    for row in found.rows:
        scores = with_error(row.perplexity), with_error(row.kl), share(row.agreement.value)
        rows.add_row(f"{row.scale}, {row.way}", *scores, f"{row.held_share:.2%}" if row.held_share else "")
    print_table(rows)
    if found.layers:
        print_table(_layers(found.layers))
    held = found.conditions
    console.data.print(
        f"[dim]{cut_words(held['windows'], held['window'])}, {bos_words(held)}, {held['dtype']} on "
        f"{held['device']}; {console.plain(held['text'])}, SHA-256 {held['text_sha256'][:12]}; static limits and "
        f"SmoothQuant from {console.plain(held['calibrated_on'])}. Errors are standard errors over windows.[/]",
        soft_wrap=True,
    )


def _layers(layers: Sequence[RoundedLayer]) -> Table:
    rows = table("input of", "scale", "largest (token, channel)", "error", "held")
    for layer in layers:
        largest = _placed(layer.examples[0]) if layer.examples else ""
        errors = f"{layer.error_plain:.1%}", f"{layer.error_held:.2%}"
        rows.add_row(console.plain(layer.module), layer.scale, largest, *errors)
    return rows


def _placed(held: HeldInput) -> str:
    return f"{held.value:,.4g} ({held.place.position}, {held.place.channel})"
