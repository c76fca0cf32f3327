"""`superweights prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.printing import finish, print_table

if TYPE_CHECKING:
    from superweights.record import Record, Score

What = Annotated[
    str,
    typer.Option(
        help="attention, mlp, block, joint (attentions and MLPs in one order), run (blocks in a row)."
    ),
]
Layers = Annotated[
    str | None, typer.Option(help="Drop these instead, such as 25,26 (with attention, mlp or block).")
]
To = Annotated[Path | None, typer.Option(help="Write the pruned checkpoint into this new folder.")]
Carriers = Annotated[
    bool, typer.Option("--carriers", help="Drop even what carries a super weight or massive activation.")
]


def prune(
    model: options.Model,
    what: What = "attention",
    drop: Annotated[int, typer.Option(min=1, help="How many: the most redundant ones.")] = 4,
    layers: Layers = None,
    to: To = None,
    weights: options.NamedWeights = None,
    from_: options.FromRecord = None,
    carriers: Carriers = False,
    draws: Annotated[int, typer.Option(min=0, help="Random choices of as many, as controls.")] = 3,
    text: options.TextFile = None,
    window: options.Window = 128,
    windows: options.Windows = 32,
    bos: options.Bos = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Drop whole attentions, MLPs or blocks: those that change the residual stream least (LLM-Drop).

    Half of the text chooses, the other half says what it costs, beside random choices of as many. Without --to
    nothing is written.

    Example: superweights prune embedded --what attention --drop 4 --to smollm2-pruned
    """
    from superweights.subject import Reading
    from superweights.verbs.prune import Dropping
    from superweights.verbs.prune import prune as verb

    console.check_out(out)
    source = options.source(model, "auto", device, allow_pickle, trust_remote_code)
    dropping = Dropping(what, drop, Dropping.parse_layers(layers), carriers, draws)
    reading = Reading(text, window, windows, bos=bos)
    held = {"weights": weights or (), "record": from_}
    with console.progress() as bar:
        record = verb(source, dropping, reading, to=to, seed=seed, progress=bar, **held)
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    from rich import box
    from rich.table import Table

    found, show = record.findings, console.data.print
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("dropped", no_wrap=True)
    for name in ("perplexity", "loss, nats/token"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("nothing", _number(record.scores[0]), "")
    for said, each in [("", found.effect), *(("at random: ", each) for each in found.controls)]:
        table.add_row(f"{said}{each.dropped}", _number(each.perplexity), _number(each.loss_change))
    print_table(table)
    for each in found.carriers:
        verb = "[bold red]dropped[/]" if each.dropped else "kept"
        show(f"{verb}: {each.kind} of layer {each.layer}, which {console.plain(each.reason)}", soft_wrap=True)
    written = found.written
    if written is None:
        show("nothing was written: give --to FOLDER.")
        return
    share = written["nbytes"] / written["whole_nbytes"]
    show(
        f"[bold]{console.plain(written['folder'])}[/]: {written['nbytes'] / 1e6:,.1f} MB, {share:.3f} of the whole "
        f"model's; read back, its logits differ by {written['difference']:.1g} of the largest from those of the "
        "original without the same layers.",
        soft_wrap=True,
    )
    if not found.dropped["blocks"]:
        show("transformers reads it after import superweights.")


def _number(score: Score) -> str:
    """The number and its error, without the unit that stands above."""
    return str(score).removesuffix(score.unit).rstrip()
