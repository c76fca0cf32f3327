"""`superweights evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.printing import finish, measured, print_table, table

if TYPE_CHECKING:
    from superweights.findings import TaskScores
    from superweights.record import Record


def evaluate(
    model: options.Model,
    tasks: Annotated[
        list[str],
        typer.Option(
            help="choice=FILE, last_word=FILE, perplexity=FILE (local JSON lines), a task file (.yaml), or a "
            "task that lm-evaluation-harness knows; repeatable."
        ),
    ],
    edit: options.Edits = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many items of each task.")] = None,
    fewshot: Annotated[int | None, typer.Option(min=0, help="Examples before each item.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Context in tokens (default: the model's).")
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with further task files.")] = None,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Task accuracy by lm-evaluation-harness, as the model is and with edited weights.

    Example: superweights evaluate embedded --tasks last_word=passages.jsonl --edit
    'model.layers.11.mlp.down_proj.weight[507, 1229]=0'
    """
    from superweights.subject import Source
    from superweights.verbs.evaluate import evaluate as verb

    console.check_out(out)
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    settings = {"limit": limit, "fewshot": fewshot, "max_length": max_length, "batch_size": batch_size}
    record = verb(source, _separate(tasks), edit or (), include_path=include_path, **settings)
    finish(record, as_json, out, show_record)


def _separate(tasks: Sequence[str]) -> list[str]:
    """Each task alone: names may come with commas between them; what names a file is one task."""
    return [part for each in tasks for part in ([each] if "=" in each else each.split(",")) if part]


def show_record(record: Record) -> None:
    """A table for people: one row for each task and metric."""
    found: TaskScores = record.findings
    columns = [found.base, *([] if found.edited is None else [found.edited])]
    rows = table("task/metric", "items", "as it is", *(["edited"] if found.edited is not None else []))
    for row in zip(*columns, strict=True):
        rows.add_row(console.plain(row[0].name), str(row[0].n), *map(measured, row))
    print_table(rows)
    for edit in found.edits:
        console.data.print(f"[dim]{console.plain(_edit(edit))}[/]", soft_wrap=True)
    how = f"lm-evaluation-harness {record.versions['lm_eval']}, {found.conditions['dtype']}"
    console.data.print(f"[dim]{how}; standard errors over items.[/]", soft_wrap=True)


def _edit(edit: dict[str, Any]) -> str:
    change = f"= {edit['factor']:g} times" if "factor" in edit else f":= {edit['value']:g}"
    return f"edited: {edit['address']} {change}"
