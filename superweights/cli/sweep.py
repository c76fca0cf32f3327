"""`superweights sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.groups import Chosen, Cut, Opened, grouped

Models = Annotated[list[str], typer.Argument(help=f"{options.NAMED}; one or more.")]
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
Plot = Annotated[Path | None, options.in_output(help="Draw the results into this .svg file.")]
JsonLines = Annotated[bool, options.in_output("--json", help="JSON lines, one per point.")]
Export = Annotated[
    Path | None,
    options.in_output(
        help="Also write every cell of the store, as JSON lines.", callback=options.output_place
    ),
]


@grouped
def sweep(
    models: Models,
    grid: Grid = None,
    held: Chosen = Chosen(),
    score: Scores = None,
    steps: Steps = None,
    count: Counts = None,
    store: StoreFile = None,
    workers: Workers = 1,
    ray: OnRay = False,
    retry_failed: RetryFailed = False,
    seed: options.Seed = 0,
    cut: Cut = Cut(),
    opened: Opened = Opened(),
    plot: Plot = None,
    as_json: JsonLines = False,
    out: Export = None,
) -> None:
    """Measure a grid of edits: scaling curves, each weight removed, pairs, all of them, and controls.

    Killed at any moment and started again it goes on where it was.

    Example: superweights sweep embedded --window 64 --windows 8
    """
    from superweights import Grids
    from superweights import sweep as verb

    sources, weights = [opened.source(name) for name in models], held.weights or ()
    grids = Grids(grid or Grids.names, steps, count or Grids.counts, seed)
    how: Any = {"store": store, "workers": workers, "ray": ray, "retry_failed": retry_failed}
    how |= {"record": held.from_, "scores": score or (), "plot": plot, "export": out}
    with console.progress() as bar:
        swept = verb(sources, weights, cut.reading(), grids, progress=bar, **how)
    _print(swept, as_json)


def _print(swept: Any, as_json: bool) -> None:
    """What was measured, and in which file it is kept; exit code 1 where a point failed."""
    from superweights.tables.sweep import parts

    for said in (*(f"note: {note}" for note in swept.notes), f"results are kept in {swept.store}"):
        console.note(said)
    console.show_rows(swept.outcomes, as_json, lambda: parts(swept))
    if swept.failed:
        raise typer.Exit(1)
