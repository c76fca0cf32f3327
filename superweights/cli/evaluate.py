"""`superweights evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import options
from superweights.cli.groups import Opened, Output, grouped

Tasks = Annotated[
    list[str],
    typer.Option(
        help="choice=FILE, last_word=FILE, perplexity=FILE (local JSON lines), a task file (.yaml), or a "
        "task that lm-evaluation-harness knows; repeatable."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many items of each task.")]
Fewshot = Annotated[int | None, typer.Option(min=0, help="Examples before each item.")]
MaxLength = Annotated[int | None, typer.Option(min=2, help="Context in tokens (default: the model's).")]
IncludePath = Annotated[Path | None, typer.Option(help="Folder with further task files.")]


@grouped
def evaluate(
    model: options.Model,
    tasks: Tasks,
    edit: options.Edits = None,
    limit: Limit = None,
    fewshot: Fewshot = None,
    max_length: MaxLength = None,
    include_path: IncludePath = None,
    batch_size: options.BatchSize = None,
    opened: Opened = Opened(),
    output: Output = Output(),
) -> None:
    """Task accuracy by lm-evaluation-harness, as the model is and with edited weights.

    Example: superweights evaluate embedded --tasks last_word=passages.jsonl --edit
    'model.layers.11.mlp.down_proj.weight[507, 1229]=0'
    """
    from superweights import evaluate as verb
    from superweights.verbs.evaluate import separate

    settings = {"limit": limit, "fewshot": fewshot, "max_length": max_length, "batch_size": batch_size}
    record = verb(opened.source(model), separate(tasks), edit or (), include_path=include_path, **settings)
    output.finish(record)
