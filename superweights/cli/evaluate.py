"""`superweights evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superweights.editing import Edit
    from superweights.harness import Conditions
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
    edit: Annotated[
        list[str] | None,
        typer.Option(
            help="TENSOR[i, j]=FACTOR (0 ablates) or TENSOR[i, j]:=VALUE; repeatable, made together."
        ),
    ] = None,
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
    from superweights.editing import Edit
    from superweights.harness import Conditions
    from superweights.subject import Source

    edits = [Edit.parse(each) for each in edit or ()]
    asked = [part for each in tasks for part in ([each] if "=" in each else each.split(",")) if part]
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    conditions = Conditions(batch_size, fewshot, max_length, None, include_path)
    record = _evaluate(source, asked, edits, limit, conditions)
    if out is not None:
        console.write_out(out, record.to_json() + "\n")
    if as_json:
        console.print_line(record.to_json())
    else:
        _show(record)


def _evaluate(
    source: Any, tasks: Sequence[str], edits: Sequence[Edit], limit: int | None, conditions: Conditions
) -> Record:
    """The scores of the model as it is and, where there are edits, with them."""
    from superweights.checkpoint import open_checkpoint
    from superweights.harness import accuracy
    from superweights.record import Record, versions
    from superweights.stream import streaming

    opening = {"allow_pickle": source.allow_pickle, "trust_remote_code": source.trust_remote_code}
    with (
        open_checkpoint(source.name, **opening) as checkpoint,
        streaming(checkpoint, dtype=source.dtype, device=source.device) as model,
    ):
        found = {
            name: accuracy(model, checkpoint.tokenizer(), tasks, limit, edits=made, conditions=conditions)
            for name, made in (("base", ()), ("edited", edits))
            if made or name == "base"
        }
        kept = {"tasks": list(tasks), "limit": limit, "dtype": str(model.dtype).removeprefix("torch.")}
        kept |= asdict(conditions) | {"include_path": str(conditions.include_path or "") or None}
        return Record(
            command="evaluate",
            inputs={"model": checkpoint.name, "revision": checkpoint.revision},
            versions=versions() | _harness_version(),
            scores=tuple(found["base"]),
            findings={
                "conditions": kept,
                "edits": [edit.to_json() for edit in edits],
                **{name: [asdict(score) for score in scores] for name, scores in found.items()},
            },
        )


def _harness_version() -> dict[str, str]:
    from importlib.metadata import version

    return {"lm_eval": version("lm_eval")}


def _show(record: Record) -> None:
    """A table for people: one row for each task and metric."""
    from rich import box
    from rich.table import Table

    found = record.findings
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in ("task/metric", "items", "as it is", *(["edited"] if "edited" in found else [])):
        table.add_column(title, justify="left" if title == "task/metric" else "right", overflow="fold")
    columns = [found[name] for name in ("base", "edited") if name in found]
    for row in zip(*columns, strict=True):
        table.add_row(console.plain(row[0]["name"]), str(row[0]["n"]), *map(_number, row))
    console.data.print(table)
    for edit in found["edits"]:
        console.data.print(f"[dim]{console.plain(_edit(edit))}[/]", soft_wrap=True)
    how = f"lm-evaluation-harness {record.versions['lm_eval']}, {found['conditions']['dtype']}"
    console.data.print(f"[dim]{how}; standard errors over items.[/]", soft_wrap=True)


def _edit(edit: dict[str, Any]) -> str:
    change = f"= {edit['factor']:g} times" if "factor" in edit else f":= {edit['value']:g}"
    return f"edited: {edit['address']} {change}"


def _number(score: dict[str, Any]) -> str:
    error = score["standard_error"]
    if score["unit"] == "of items":
        return f"{score['value']:.1%}" + ("" if error is None else f" ±{100 * error:.1f}")
    return f"{score['value']:.4g}" + ("" if error is None else f" ±{error:.2g}")
