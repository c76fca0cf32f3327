"""`superweights sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.printing import print_lines
from superweights.cli.sweep_table import show_model

Models = Annotated[
    list[str],
    typer.Argument(
        help="Folder, .gguf or .safetensors file, org/name\\[@revision], or 'embedded'; one or more."
    ),
]
Grid = Annotated[
    list[str] | None, typer.Option(help="scale, each, pairs, all, controls; repeatable; default: scale.")
]
Scores = Annotated[
    list[str] | None, typer.Option(help="kl, agreement: measured beside perplexity; repeatable.")
]
Steps = Annotated[int | None, typer.Option(min=2, help="Points of the scaling curve, evenly from 0 to 3.")]
Counts = Annotated[
    list[int] | None, typer.Option(min=1, help="Other weights that the controls remove; repeatable.")
]
StoreFile = Annotated[
    Path | None, typer.Option(help="Results are kept in this file; without it, one in this folder.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the work.")]
OnRay = Annotated[bool, typer.Option("--ray", help="Workers on a Ray cluster.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try failed cells again.")]
Plot = Annotated[Path | None, typer.Option(help="Draw the results into this .svg file.")]
JsonLines = Annotated[bool, typer.Option("--json", help="JSON lines, one per point.")]
Export = Annotated[Path | None, typer.Option(help="Also write every cell of the store, as JSON lines.")]


def sweep(
    models: Models,
    grid: Grid = None,
    weights: options.NamedWeights = None,
    from_: options.FromRecord = None,
    score: Scores = None,
    steps: Steps = None,
    count: Counts = None,
    text: options.TextFile = None,
    window: options.Window = 512,
    windows: options.Windows = 24,
    bos: options.Bos = "auto",
    store: StoreFile = None,
    workers: Workers = 1,
    ray: OnRay = False,
    retry_failed: RetryFailed = False,
    plot: Plot = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: JsonLines = False,
    out: Export = None,
) -> None:
    """Measure a grid of edits: scaling curves, each weight removed, pairs, all of them, and controls.

    Killed at any moment and started again it goes on where it was.

    Example: superweights sweep embedded --window 64 --windows 8
    """
    from superweights.subject import Reading, Source
    from superweights.verbs.sweep import Grids
    from superweights.verbs.sweep import sweep as verb

    console.check_picture(plot)
    sources = [Source(name, dtype, device, allow_pickle, trust_remote_code) for name in models]
    reading = Reading(text, window, windows, None, bos)
    grids = Grids(grid or Grids.names, steps, count or Grids.counts, seed)
    how: Any = {"store": store, "workers": workers, "ray": ray, "retry_failed": retry_failed}
    with console.progress() as bar:
        swept = verb(
            sources, weights or (), reading, grids, record=from_, scores=score or (), progress=bar, **how
        )
    _finish(swept, as_json, plot, out)


def _finish(swept: Any, as_json: bool, plot: Path | None, out: Path | None) -> None:
    """What is asked for written and printed; exit code 1 where a point failed."""
    for note in (*(f"note: {note}" for note in swept.notes), f"results are kept in {swept.store}"):
        console.notes.print(f"[dim]{console.plain(note)}[/]", soft_wrap=True)
    if plot is not None:
        console.write_out(plot, swept.picture())
    if out is not None:
        console.write_out(out, swept.export())
    if as_json:
        print_lines(outcome.to_json() for outcome in swept.outcomes)
    else:
        for setup, outcomes in swept.by_model():
            show_model(outcomes, setup)
    if swept.failed:
        raise typer.Exit(1)
