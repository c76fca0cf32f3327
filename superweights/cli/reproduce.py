"""`superweights reproduce`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.groups import BatchedCut, Opened, Output, grouped

Lambada = Annotated[
    Path | None, typer.Option(help="JSON lines with a text each, which ends in the word to predict.")
]
Limit = Annotated[int, typer.Option(min=1, help="The first so many of them, and of each task.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", help="Table 1: also this task of lm-evaluation-harness, see evaluate; repeatable."
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option("--weight", help="A super weight, TENSOR\\[i, j]; repeatable. Else known or found."),
]
Others = Annotated[int, typer.Option(min=1, help="How many other large weights to prune.")]
Control = Annotated[
    bool, typer.Option("--control", help="Figure 5: also another change that does equal damage.")
]
AsLines = Annotated[bool, options.in_output("--json", help="JSON lines: the conditions, then the rows.")]
Prompt = Annotated[str | None, typer.Option(help="The sentence of figures 3 and 4.")]
Scales = Annotated[str | None, typer.Option(help="The factors of figure 6, as 0,0.5,1,2.")]
Top = Annotated[int, typer.Option(min=1, help="Tokens of each kind in figure 5.")]


@dataclass(frozen=True)
class Rows(Output):
    """An experiment is printed row by row."""

    as_json: AsLines = False


@grouped
def reproduce(
    experiment: Annotated[str, typer.Argument(help="table1, figure3, figure4, figure5 or figure6.")],
    model: options.ModelOrEmbedded = None,
    lambada: Lambada = None,
    limit: Limit = 500,
    task: Tasks = None,
    prompt: Prompt = None,
    weight: Weights = None,
    record: options.FromRecord = None,
    others: Others = 7000,
    scales: Scales = None,
    top: Top = 16,
    control: Control = False,
    seed: options.Seed = 0,
    cut: BatchedCut = BatchedCut(windows=8),
    opened: Opened = Opened(),
    svg: options.Picture = None,
    output: Rows = Rows(),
) -> None:
    """Run an experiment of the super weight paper on any model, beside the published figures.

    Example: superweights reproduce figure3
    """
    from superweights import Passages
    from superweights import reproduce as verb

    about: Any = {"weights": weight or (), "record": record, "prompt": prompt, "scales": scales}
    about |= {"passages": Passages(lambada, limit) if lambada else None, "tasks": tuple(task or ())}
    further = {"task_limit": limit, "others": others, "top": top, "control": control, "seed": seed}
    source, reading = opened.source(model), cut.reading()
    with console.progress() as bar:
        made = verb(experiment, source, reading, plot=svg, progress=bar, **about, **further)
    output.finish(made)
