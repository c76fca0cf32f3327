"""`superweights reproduce`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.printing import bos_words, cut_words, finish, measured, print_table
from superweights.errors import SuperweightsError
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.findings import Reproduction
    from superweights.record import Record

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
AsLines = Annotated[bool, typer.Option("--json", help="JSON lines: the conditions, then the rows.")]


def reproduce(
    experiment: Annotated[str, typer.Argument(help="table1, figure3, figure4, figure5 or figure6.")],
    model: options.ModelOrEmbedded = None,
    text: options.TextFile = None,
    window: options.Window = 512,
    windows: options.Windows = 8,
    bos: options.Bos = "auto",
    batch_size: options.BatchSize = None,
    lambada: Lambada = None,
    limit: Limit = 500,
    task: Tasks = None,
    prompt: Annotated[str | None, typer.Option(help="The sentence of figures 3 and 4.")] = None,
    weight: Weights = None,
    record: options.FromRecord = None,
    others: Others = 7000,
    scales: Annotated[str | None, typer.Option(help="The factors of figure 6, as 0,0.5,1,2.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Tokens of each kind in figure 5.")] = 16,
    control: Control = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: AsLines = False,
    svg: Annotated[Path | None, typer.Option(help="Also draw it into this file (figures).")] = None,
    out: options.Out = None,
) -> None:
    """Run an experiment of the super weight paper on any model, beside the published figures.

    Example: superweights reproduce figure3
    """
    from superweights.subject import Reading, Source
    from superweights.verbs.reproduce import Passages, draw
    from superweights.verbs.reproduce import reproduce as verb

    console.check_picture(svg)
    console.check_out(out)
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, None, bos, batch_size)
    about: Any = {"weights": weight or (), "record": record, "prompt": prompt, "scales": _factors(scales)}
    about |= {"passages": Passages(lambada, limit) if lambada else None, "tasks": tuple(task or ())}
    further = {"task_limit": limit, "others": others, "top": top, "control": control, "seed": seed}
    with console.progress() as bar:
        made = verb(experiment, source, reading, progress=bar, **about, **further)
    if svg is not None:
        console.write_out(svg, draw(made.findings))
    finish(made, as_json, out, show_record, _lines)


def _factors(written: str | None) -> tuple[float, ...] | None:
    if written is None:
        return None
    try:
        return tuple(float(part) for part in written.split(","))
    except ValueError:
        raise SuperweightsError(
            f"{written!r} is no list of factors.", hint="write --scales 0,0.5,1,2."
        ) from None


def _lines(record: Record) -> Iterator[dict[str, Any]]:
    """The conditions, then every row."""
    from superweights.record import plain

    whole = plain(record.findings)
    rows = whole.pop("rows")
    yield {"kind": "conditions", **whole}
    yield from ({"kind": "row", "experiment": whole["experiment"], **row} for row in rows)


def show_record(record: Record) -> None:
    from rich.table import Table

    found: Reproduction = record.findings
    told = found.published
    model = found.conditions.get("name") or "the embedded model"
    console.data.print(f"[bold]{console.plain(found.title)}[/], {console.plain(str(model))}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in found.columns:
        style = "dim" if column.whose == "published" else None
        side = "left" if column.whose == "label" else "right"
        table.add_column(console.plain(column.heading), justify=side, style=style, no_wrap=True)
    for row in found.rows:
        table.add_row(*(console.plain(cell(row.get(column.key))) for column in found.columns))
    print_table(table)
    for weight in found.weights:
        console.data.print(f"[dim]{console.plain(_weight(weight))}[/]", soft_wrap=True)
    lines = [*found.sentences, *(f"note: {note}" for note in found.notes), *_conditions(found)]
    if not told.same_model:
        lines.append(
            f"The paper has no figures for this model; those of {told.model} stand beside for orientation."
        )
    lines.append(f"Published: {told.source}; {told.protocol}.")
    lines += [f"known error: {error}" for error in told.errors]
    console.data.print(*lines, sep="\n", markup=False, soft_wrap=True)


def cell(value: Any) -> str:
    """One value as a person reads it: scores with errors, intervals, tokens in quotes; None is empty."""
    from superweights.record import Score

    if value is None:
        return ""
    if isinstance(value, Score):
        return measured(value)
    if isinstance(value, tuple):
        return f"{value[0]:.2g} to {value[1]:.2g}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    told = str(value)
    return told if told.isprintable() and told == told.strip() else repr(told)


def _weight(weight: dict[str, Any]) -> str:
    spikes = ""
    if weight["spike_in"] is not None:
        spikes = f", {weight['spike_in']:.4g} in, {weight['spike_out']:.4g} out on the prompt"
    return f"super weight {weight['address']} = {weight['value']:.5g}{spikes}"


def _conditions(found: Reproduction) -> list[str]:
    held = found.conditions
    lines = [f"Super weights: {found.chosen}."] if found.weights else []
    if "window" in held:
        lines.append(
            f"Text: {cut_words(held['windows'], held['window'])} {bos_words(held)} of {held['text']}, "
            f"SHA-256 {held['text_sha256'][:12]}; {counted(held['passages'], 'passage')}; "
            f"{held['dtype']} on {held['device']}. Errors are standard errors."
        )
    else:
        lines.append(f"Prompt: {held['prompt']!r}; {held['dtype']} on {held['device']}.")
    return lines
