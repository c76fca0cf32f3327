"""`superweights prune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.console import progress
from superweights.cli.pruning import Wanted, chosen
from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights.checkpoint import Checkpoint
    from superweights.pruning import Dropped
    from superweights.pruning.writing import Pruned
    from superweights.record import Record

_WHAT = ("attention", "mlp", "block", "joint", "run")


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
    from superweights.checkpoint import open_checkpoint
    from superweights.subject import Reading

    wanted = Wanted(what, drop, _numbers(layers), carriers, draws, seed)
    _check(wanted, windows)
    console.check_out(out)
    with open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint:
        tokens = Reading(text, window, windows).tokens_of(checkpoint, seed)
        record, dropped = chosen(checkpoint, wanted, tokens, weights, from_, device)
        written = None if to is None else _write(checkpoint, dropped, to, device, record)
    if out is not None:
        console.write_out(out, record.to_json() + "\n")
    if as_json:
        console.print_line(record.to_json())
    else:
        _show(record, written)


def _write(checkpoint: Checkpoint, dropped: Dropped, to: Path, device: str, record: Record) -> Pruned:
    """Write the pruned checkpoint, and say so in the record."""
    from superweights.pruning import prune as write

    with progress() as bar:
        count = lambda _, done, total: bar("writing", done, total)  # noqa: E731
        written = write(checkpoint, dropped, to, device=device, progress=count)
    told = {**asdict(written), "folder": str(written.folder)}
    record.findings["written"] = {key: value for key, value in told.items() if key != "dropped"}
    return written


def _numbers(layers: str | None) -> tuple[int, ...] | None:
    if layers is None:
        return None
    try:
        return tuple(int(each) for each in layers.split(","))
    except ValueError as error:
        raise SuperweightsError(
            f"--layers {layers} is no list of numbers.", hint="write for example --layers 25,26."
        ) from error


def _check(wanted: Wanted, windows: int) -> None:
    if wanted.what not in _WHAT:
        raise SuperweightsError(
            f"There is nothing called {wanted.what!r} to drop.", hint=f"choose one of {', '.join(_WHAT)}."
        )
    if wanted.layers is not None and wanted.what in ("joint", "run"):
        raise SuperweightsError(
            f"--layers does not say what is to go where --what is {wanted.what}.",
            hint="use --what attention, mlp or block with it.",
        )
    if windows < 2:
        raise SuperweightsError("One window cannot both choose and judge.", hint="use --windows 2 or more.")


def _show(record: Record, written: Pruned | None) -> None:
    from rich import box
    from rich.table import Table

    from superweights.record import Score

    found, show = record.findings, console.data.print
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("dropped", overflow="fold")
    for name in ("perplexity", "loss, nats/token"):
        table.add_column(name, justify="right", no_wrap=True)
    base = record.scores[0]
    table.add_row("nothing", str(Score("", base.value, "", base.n, base.standard_error)), "")
    rows = [("", found["effect"]), *(("at random: ", each) for each in found["controls"])]
    for said, each in rows:
        cells = [
            str(Score("", held["value"], "", held["n"], held["standard_error"]))
            for held in (each["perplexity"], each["loss_change"])
        ]
        table.add_row(f"{said}{each['dropped']}", *cells)
    show(table)
    for each in found["carriers"]:
        verb = "[bold red]dropped[/]" if each["dropped"] else "kept"
        show(
            f"{verb}: {each['kind']} of layer {each['layer']}, which {console.plain(each['reason'])}",
            soft_wrap=True,
        )
    if written is None:
        show("nothing was written: give --to FOLDER.")
        return
    share = written.nbytes / written.whole_nbytes
    show(
        f"[bold]{console.plain(str(written.folder))}[/]: {written.nbytes / 1e6:,.1f} MB, {share:.3f} of the whole "
        f"model's; read back, its logits differ by {written.difference:.1g} of the largest from those of the original "
        "without the same layers.",
        soft_wrap=True,
    )
    if not found["dropped"]["blocks"]:
        show("transformers reads it after import superweights.")
