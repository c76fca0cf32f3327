"""`superweights adapt merge` and `superweights adapt export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.printing import finish

if TYPE_CHECKING:
    from superweights.record import Record


def merge(
    model: options.Model,
    expert: own.Expert,
    to: own.To,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Write the model with an expert merged in: a dense checkpoint that any program reads.

    Example: superweights adapt merge embedded experts/arithmetic --to smollm2-arithmetic
    """
    from superweights.verbs.adapt_write import adapt_write

    console.check_out(out)
    source = options.source(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    with console.progress() as bar:
        record = adapt_write(source, expert, to, "dense", progress=bar)
    finish(record, as_json, out, show_record)


def export(
    model: options.Model,
    expert: own.Expert,
    to: own.To,
    form: Annotated[
        str, typer.Option("--as", help="psoft (the same function) or lora (cut to --rank).")
    ] = "psoft",
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA adapter.")] = 16,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Write an expert as an adapter that plain PEFT loads.

    Example: superweights adapt export embedded experts/arithmetic --to arithmetic-psoft
    """
    from superweights.verbs.adapt_write import adapt_write

    console.check_out(out)
    source = options.source(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    with console.progress() as bar:
        record = adapt_write(source, expert, to, form, rank=rank, progress=bar)
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    found = record.findings
    for folder in found.folders:
        console.data.print(f"[bold]{console.plain(folder)}[/] ({found.form})", soft_wrap=True)
    missed = f"; {found.missed:.3f} of the change is missed" if found.form == "lora" else ""
    console.data.print(f"{found.nbytes / 1e6:,.1f} MB{missed}")
