"""`superweights quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.printing import finish

if TYPE_CHECKING:
    from superweights.record import Record

To = Annotated[Path, typer.Option(help="A new folder (gguf: a new file).")]
Format = Annotated[str, typer.Option("--format", help="packed, dense, compressed-tensors or gguf.")]
Grid = Annotated[str, typer.Option(help="int2 to int8, nf4, nf3, fp8_e4m3, fp8_e5m2, mxfp4, nvfp4.")]
Group = Annotated[
    int | None,
    typer.Option(min=0, help="Inputs that share a scale, 0: all of an output channel; else 64 (gguf: 32)."),
]
ZeroPoint = Annotated[str | None, typer.Option(help="none (symmetric), integer or float.")]
Fit = Annotated[str | None, typer.Option(help="range, centred, half_quadratic, least_squares, mse.")]
ClipZ = Annotated[float | None, typer.Option(help="Clip at so many standard deviations first.")]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="A plan in JSON, instead of one scheme for all.")
]
Rest = Annotated[
    str | None,
    typer.Option(
        help="packed: the dtype of matrices that are not rounded, such as embeddings; else as stored."
    ),
]
SavePlan = Annotated[Path | None, typer.Option(help="Also write the plan to this file.")]


def quantize(
    model: options.Model,
    to: To,
    format_: Format = "packed",
    grid: Grid = "int4",
    group: Group = None,
    zero_point: ZeroPoint = None,
    fit: Fit = None,
    clip_z: ClipZ = None,
    keep: options.Keep = None,
    from_: options.FromRecord = None,
    plan: PlanFile = None,
    save_plan: SavePlan = None,
    rest: Rest = None,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Round a model's matrices to few bits, its super weights kept exactly, and write it for other programs.

    Stopped and started again it goes on where it was.

    Example: superweights quantize embedded --to smollm2-int4
    """
    from superweights.verbs.quantize import Rounding
    from superweights.verbs.quantize import quantize as verb

    console.check_out(out)
    source = options.source(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    rounding = plan or Rounding(grid, group, zero_point, fit, clip_z)
    kept = {"keep": keep or ["known"], "record": from_}
    with console.progress() as bar:
        record = verb(
            source, to, rounding, format=format_, rest=rest, save_plan=save_plan, progress=bar, **kept
        )
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    found = record.findings
    console.data.print(f"[bold]{console.plain(found.to)}[/]: {found.format}", soft_wrap=True)
    for scheme in found.schemes:
        console.data.print(f"  {console.plain(scheme)}", soft_wrap=True)
    for score in record.scores:
        console.data.print(f"  {score.name}: {score}", highlight=False)
    console.data.print(f"  matrices rounded: {found.tensors_rounded}", highlight=False)
    for each in found.protected:
        name = each.address.split("[")[0]
        console.data.print(f"  {console.plain(name + each.said)}", soft_wrap=True, highlight=False)
    if not found.protected:
        console.data.print("  Nothing is protected: no weight was kept exactly.")
