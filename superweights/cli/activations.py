"""`superweights activations`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.console import progress
from superweights.cli.printing import table as _table
from superweights.cli.printing import with_error

if TYPE_CHECKING:
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
    """Round the inputs of linear layers: plain, super activations held out, clipped, SmoothQuant.

    Example: superweights activations embedded --scale tensor --layers 5
    """
    from superweights.cli.activation_rows import SCALES, Rounding, measure_activations
    from superweights.subject import Reading, Source

    console.check_out(out)
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, None, bos, batch_size)
    rounding = Rounding(tuple(scale or SCALES), weights, bits, held, alpha, calibrate_on, layers)
    with progress() as bar:
        record = measure_activations(source, reading, rounding, seed=seed, progress=bar)
    if out is not None:
        console.write_out(out, record.to_json() + "\n")
    if as_json:
        console.print_line(record.to_json())
        return
    _show(record)


def _show(record: Record) -> None:
    """The table, the layers that gain most, and the conditions."""
    found = record.findings
    table = _table("inputs rounded", "perplexity", "KL, nats", "same top", "held out")
    table.add_row("not at all", _with_error(found["base"]), "", "", "")
    for row in found["rows"]:
        table.add_row(
            f"{row['scale']}, {row['way']}",
            _with_error(row["perplexity"]),
            _with_error(row["kl"]),
            f"{row['agreement']['value']:.1%}",
            f"{row['held_share']:.2%}" if row["held_share"] else "",
        )
    console.data.print(table)
    if found["layers"]:
        console.data.print(_layers(found["layers"]))
    held = found["conditions"]
    console.data.print(
        f"[dim]{held['windows']} windows of {held['window']} tokens, {held['dtype']} on {held['device']}; "
        f"{console.plain(held['text'])}, SHA-256 {held['text_sha256'][:12]}; static limits and SmoothQuant from "
        f"{console.plain(held['calibrated_on'])}. Errors are standard errors over windows.[/]",
        soft_wrap=True,
    )


def _layers(rows: list[dict[str, Any]]) -> Any:
    table = _table("input of", "scale", "largest (token, channel)", "error", "held")
    for row in rows:
        first = row["examples"][0] if row["examples"] else None
        place = "" if first is None else _place(first)
        table.add_row(
            console.plain(row["module"]),
            row["scale"],
            place,
            f"{row['error_plain']:.1%}",
            f"{row['error_held']:.2%}",
        )
    return table


def _place(held: dict[str, Any]) -> str:
    return f"{held['value']:,.4g} ({held['place']['position']}, {held['place']['channel']})"


def _with_error(score: dict[str, Any]) -> str:
    from superweights.record import Score

    return with_error(Score(**score))
