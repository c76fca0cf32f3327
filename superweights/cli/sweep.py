"""`superweights sweep`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.console import progress
from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights.address import Address
    from superweights.checkpoint import Checkpoint
    from superweights.sweeps import Outcome, Point, Reading, Setup, Source

GRIDS = ("scale", "each", "pairs", "all", "controls")


Models = Annotated[
    list[str],
    typer.Argument(
        help="Folder, .gguf or .safetensors file, org/name[@revision], or 'embedded'; one or more."
    ),
]
Grid = Annotated[list[str] | None, typer.Option(help=f"{', '.join(GRIDS)}; repeatable. Without it: scale.")]
Weights = Annotated[
    list[str] | None,
    typer.Option(help="TENSOR[i, j]; repeatable. Without it: those of --from, or the known ones."),
]
FromRecord = Annotated[
    Path | None, typer.Option("--from", help="Record of 'superweights find --out': its super weights.")
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
    weights: Weights = None,
    from_: FromRecord = None,
    score: Scores = None,
    steps: Steps = None,
    count: Counts = None,
    text: options.TextFile = None,
    window: options.Window = 512,
    windows: options.Windows = 24,
    bos: options.Bos = False,
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
    from superweights.sweeps import Reading, Source

    _check(grid, plot)
    reading = Reading(text, window, windows, bos=bos)
    sources = [Source(name, dtype, device, allow_pickle, trust_remote_code) for name in models]
    plan = _planner(grid or ["scale"], weights, from_, steps, count, seed)
    setups = _prepare(sources, plan, reading, score, seed)
    store = store or Path(_default_store(setups))
    outcomes = _measure(setups, store, workers, ray, retry_failed)
    if plot is not None:
        from superweights.sweeps import draw

        console.write_out(plot, draw(outcomes))
    if out is not None:
        _export(setups, store, out)
    _show(outcomes, setups, as_json)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _check(grids: list[str] | None, plot: Path | None) -> None:
    """Refuse what would fail after the work is done."""
    for grid in grids or ():
        if grid not in GRIDS:
            raise SuperweightsError(
                f"There is no grid called {grid!r}.", hint=f"choose from {', '.join(GRIDS)}."
            )
    if plot is not None and (plot.suffix.lower() != ".svg" or not plot.parent.is_dir()):
        raise SuperweightsError(
            f"Cannot draw into {plot}.", hint="give a file name that ends in .svg, inside an existing folder."
        )


def _planner(
    grids: list[str],
    weights: list[str] | None,
    record: Path | None,
    steps: int | None,
    counts: list[int] | None,
    seed: int,
) -> Callable[[Checkpoint], list[Point]]:
    """The points of all grids, for a checkpoint."""
    from superweights.address import Address
    from superweights.cli.weights import weights_of
    from superweights.sweeps import (
        COUNTS,
        SCALES,
        even_steps,
        plan_all,
        plan_controls,
        plan_each,
        plan_pairs,
        plan_scale,
    )

    given = [Address.parse(each) for each in weights or ()]
    factors = even_steps(steps) if steps else SCALES

    def plan(checkpoint: Checkpoint) -> list[Point]:
        held: Sequence[Address] = given or weights_of(checkpoint, record)
        made: dict[str, Callable[[], list[Point]]] = {
            "scale": lambda: plan_scale(held, factors),
            "each": lambda: plan_each(held),
            "pairs": lambda: plan_pairs(held),
            "all": lambda: plan_all(held),
            "controls": lambda: [*plan_all(held), *plan_controls(checkpoint, held, counts or COUNTS, seed)],
        }
        return list(dict.fromkeys(point for grid in grids for point in made[grid]()))

    return plan


def _prepare(
    sources: Sequence[Source], plan: Any, reading: Reading, scores: list[str] | None, seed: int
) -> list[Setup]:
    from superweights.sweeps import prepare

    asked = ("loss", *(scores or ()))
    with progress() as bar:
        setups = []
        for i, source in enumerate(sources):
            bar(f"planning {source.name}", i, len(sources))
            setups.append(prepare(source, plan, reading, scores=asked, seed=seed))
    return setups


def _measure(setups: list[Setup], store: Path, workers: int, ray: bool, retry_failed: bool) -> list[Outcome]:
    """Run the sweep with a bar; say where the results are, also when it is interrupted."""
    from superweights.sweeps import sweep as run

    for note in (note for setup in setups for note in setup.notes):
        console.notes.print(f"[dim]note: {console.plain(note)}[/]")
    try:
        with progress() as bar:
            outcomes = run(
                setups,
                store,
                workers=workers,
                ray=ray,
                retry_failed=retry_failed,
                progress=bar,
            )
    except KeyboardInterrupt:
        kept = f"What is done is kept in {console.plain(str(store))}: the same command goes on from there."
        console.notes.print(kept, soft_wrap=True)
        raise
    console.notes.print(f"[dim]results are kept in {console.plain(str(store))}[/]", soft_wrap=True)
    return outcomes


def _default_store(setups: Sequence[Setup]) -> str:
    """A file in this folder, named after the models and their numbers, so that others do not fall into it."""
    import re

    name = "-".join(re.sub(r"[^\w.]+", "-", Path(s.task.name).name).strip("-") for s in setups)
    return f"sweep-{name[:80]}-{''.join(s.task.fingerprint[:8] for s in setups[:4])}.sqlite"


def _export(setups: Sequence[Setup], store: Path, out: Path) -> None:
    from superweights.sweeps import Store

    with Store(store, {setup.task.fingerprint: setup.task.name for setup in setups}) as opened:
        console.write_out(out, "".join(f"{line}\n" for line in opened.export()))


def _show(outcomes: Sequence[Outcome], setups: Sequence[Setup], as_json: bool) -> None:
    if as_json:
        from superweights.record import to_json_line

        for outcome in outcomes:
            console.print_line(to_json_line(outcome.to_json()))
        return
    from superweights.cli.sweep_table import show_model

    for setup in setups:
        show_model([o for o in outcomes if o.fingerprint == setup.task.fingerprint], setup)
