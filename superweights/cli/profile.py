"""`superweights profile`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from superweights.cli import console, options
from superweights.cli.printing import finish, print_table

if TYPE_CHECKING:
    from superweights.record import Record


def profile(
    model: options.ModelOrEmbedded = None,
    text: options.TextFile = None,
    window: Annotated[int, typer.Option(min=4, help="Tokens in a window.")] = 64,
    windows: Annotated[int, typer.Option(min=1, help="How many windows of the text.")] = 8,
    bos: options.Bos = "auto",
    rounding: Annotated[bool, typer.Option(help="Also measure what eight to three bits cost.")] = True,
    search: Annotated[bool, typer.Option("--search", help="Also look for super weights.")] = False,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Measure sinks, outliers in every sense, and rounding penalties of a model, as the lab does.

    Example: superweights profile embedded
    """
    from superweights.subject import Reading, Source
    from superweights.verbs.profile import profile as measure

    console.check_out(out)
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, bos=bos)
    with console.progress() as bar:
        record = measure(source, reading, rounding=rounding, search=search, seed=seed, progress=bar)
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    """Every number under its exact name."""
    found = record.findings
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("number", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    for name, value in found.to_json().items():
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        for part, number in parts:
            shown = "" if number is None else f"{number:.4g}" if isinstance(number, float) else str(number)
            table.add_row(f"{name}, {part}" if part else name, shown)
    print_table(table)
