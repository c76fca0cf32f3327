"""`superweights plan`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.printing import finish, print_table

if TYPE_CHECKING:
    from superweights.record import Record

_FRONTIER = 12


def plan(
    model: options.Model,
    bits: Annotated[
        float, typer.Option(help="Stored bits per weight of the rounded matrices, scales included.")
    ] = 4.25,
    format_: Annotated[
        str, typer.Option("--format", help="packed, compressed-tensors, gguf: whose schemes to choose among.")
    ] = "packed",
    save: Annotated[
        Path | None, typer.Option(help="Write the plan here, for superweights quantize --plan.")
    ] = None,
    keep: options.Keep = None,
    from_: options.FromRecord = None,
    text: options.TextFile = None,
    window: options.Window = 128,
    windows: Annotated[
        int, typer.Option(min=2, help="Windows of text: the first half measures, the second checks.")
    ] = 4,
    bos: options.Bos = "auto",
    plot: Annotated[Path | None, typer.Option(help="Draw the frontier into this .svg file.")] = None,
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Spend a bit budget over a model's matrices by measured sensitivity, super weights kept exactly.

    Example: superweights plan embedded --bits 4.25 --save plan.json
    """
    from superweights.subject import Reading
    from superweights.verbs.plan import plan as verb

    console.check_out(out)
    source = options.source(model, "auto", device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, bos=bos)
    kept = {"keep": keep or ["known"], "record": from_}
    with console.progress() as bar:
        record = verb(
            source, bits, reading, format=format_, save=save, plot=plot, seed=seed, progress=bar, **kept
        )
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    from rich import box
    from rich.table import Table

    found, show = record.findings, console.data.print
    counts = Counter(each.grid for each in found.matrices)
    show("matrices: " + ", ".join(f"{n} in {grid}" for grid, n in sorted(counts.items())))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("most sensitive, and those with super weights", no_wrap=True)
    for name in ("KL alone, nats", "grid", "bits"):
        table.add_column(name, justify="right", no_wrap=True)
    ranked = sorted(found.matrices, key=lambda each: (not each.super_weights, -each.measured_kl))
    for each in ranked[:10]:
        name = console.plain(each.tensor + (" *" if each.super_weights else ""))
        table.add_row(name, f"{each.measured_kl:.2g}", each.grid, f"{each.bits_per_weight:.2f}")
    print_table(table)
    show("frontier, bits per weight and expected KL:")
    for bits, loss in found.frontier[:: max(1, len(found.frontier) // _FRONTIER)]:
        show(f"  {bits:5.2f}  {loss:.3g}", highlight=False)
    kl, base, other = record.scores[:3]
    show(
        f"plan: {found.bits_per_weight:.3f} bits per weight; KL {kl} (expected {found.expected_kl:.3g}); "
        f"perplexity {base.value:.4g} before, {other.value:.4g} after",
        soft_wrap=True,
    )
    for alone in found.uniform:
        show(
            f"one scheme for all, {console.plain(alone.scheme)}: {alone.bits_per_weight:.3f} bits per weight; "
            f"KL {alone.value:.4g} ± {alone.standard_error or 0:.2g} {alone.unit}",
            soft_wrap=True,
        )
