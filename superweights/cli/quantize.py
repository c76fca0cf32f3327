"""`superweights quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Cut, Output, Placed, Shared, grouped

To = Annotated[Path, options.in_output(help="A new folder (gguf: a new file).")]
Format = Annotated[str, options.in_output("--format", help="packed, dense, compressed-tensors or gguf.")]
Grid = Annotated[str, typer.Option(help="int2 to int8, nf4, nf3, fp8_e4m3, fp8_e5m2, mxfp4, nvfp4.")]
Group = Annotated[
    int | None,
    typer.Option(min=0, help="Inputs that share a scale, 0: all of an output channel; else 64 (gguf: 32)."),
]
ZeroPoint = Annotated[str | None, typer.Option(help="none (symmetric), integer or float.")]
Fit = Annotated[
    str | None,
    typer.Option(
        help="range, centred, half_quadratic, least_squares, mse; second_order (minutes) rounds for text that the "
        "model writes itself."
    ),
]
CalibrateOn = Annotated[
    Path | None,
    typer.Option(help="With --fit second_order: round for this text, in place of the model's own."),
]
ClipZ = Annotated[float | None, typer.Option(help="Clip at so many standard deviations first.")]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="A plan in JSON, instead of one scheme for all.")
]
Embeddings = Annotated[
    str | None,
    options.in_output(
        help="How embeddings and head are stored: bf16 (gguf: keep), int8, keep (as they are)."
    ),
]
Check = Annotated[
    bool, options.in_text("--check/--no-check", help="Measure how far the result is from the original.")
]
SavePlan = Annotated[Path | None, options.in_output(help="Also write the plan to this file.")]


@grouped
def quantize(
    model: options.Model,
    to: To,
    grid: Grid = "int4",
    group: Group = None,
    zero_point: ZeroPoint = None,
    fit: Fit = None,
    clip_z: ClipZ = None,
    calibrate_on: CalibrateOn = None,
    seed: options.Seed = 0,
    keep: options.Keep = None,
    from_: options.FromRecord = None,
    plan: PlanFile = None,
    check: Check = True,
    read: Cut = Cut(128, 4),
    opened: Placed = Placed(),
    format_: Format = "packed",
    embeddings: Embeddings = None,
    save_plan: SavePlan = None,
    shared: Shared = Shared(),
    output: Output = Output(),
) -> None:
    """Round a model's matrices to few bits, its super weights kept exactly, and write it for other programs.

    Stopped and started again it goes on where it was.

    Example: superweights quantize embedded --to smollm2-int4
    """
    from superweights import Rounding
    from superweights import quantize as verb

    rounding = plan or Rounding(grid, group, zero_point, fit, clip_z)
    how = {"keep": keep or ["known"], "record": from_, "save_plan": save_plan, "embeddings": embeddings}
    how |= {"format": format_, "calibrate_on": calibrate_on, "seed": seed}
    reading = read.reading() if check else None
    with console.progress() as bar:
        record = verb(opened.source(model), to, rounding, check=reading, progress=bar, **how)
    output.finish(record)
    shared.push(to, record)
