"""`superweights census`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Lines, Opened, grouped

Models = Annotated[Path, typer.Argument(help="A file with one model a line; lines with # are passed over.")]
To = Annotated[
    Path, options.in_output(help="Folder for the data set and the page; the same one goes on where it was.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Search each on eight windows of 32 tokens.")]
Rounding = Annotated[
    bool, typer.Option("--rounding", help="Also measure what eight to three bits cost, each model in memory.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the models.")]
OnRay = Annotated[bool, typer.Option("--ray", help="Workers on a Ray cluster.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit code 1 where one model failed; without it, where all did.")
]


@grouped
def census(
    models: Models,
    to: To,
    quick: Quick = False,
    rounding: Rounding = False,
    workers: Workers = 1,
    ray: OnRay = False,
    strict: Strict = False,
    seed: options.Seed = 0,
    opened: Opened = Opened(),
    output: Lines = Lines(),
) -> None:
    """Find, prove and profile the super weights of many models: one data set, and the page DIR/page.html.

    A model that fails costs the others nothing, and is tried again the next time. Killed at any moment and started
    again it goes on where it was.

    Example: superweights census models.txt --to DIR --quick
    """
    from superweights import census as verb

    how = {"quick": quick, "rounding": rounding, "seed": seed, "workers": workers, "ray": ray}
    with console.progress() as bar:
        record = verb(models, to, source=opened.source(None), progress=bar, **how)
    output.finish(record)
    console.note(f"weights: {to / 'known.jsonl'}, models: {to / 'models.jsonl'}, page: {to / 'page.html'}")
    if not record.findings.models or (strict and record.findings.failed):
        raise typer.Exit(1)
