"""`superweights anatomy`: questions about what goes on inside a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.printing import bos_words, cut_words, finish, print_table
from superweights.interpretability.questions import QUESTIONS

if TYPE_CHECKING:
    from superweights.findings import Anatomy
    from superweights.record import Record

_LIST = "\n\n".join(f"[bold]{question.word}[/]: {question.asks}." for question in QUESTIONS)


Prompts = Annotated[
    Path | None,
    typer.Option(help="JSON of relations to ask about (relations), instead of the built-in ones."),
]


def anatomy(
    question: Annotated[str, typer.Argument(help="One of the questions below, or all.")],
    model: options.ModelOrEmbedded = None,
    text: options.TextFile = None,
    window: options.Window = 64,
    windows: options.Windows = 32,
    bos: options.Bos = "auto",
    causal: Annotated[
        bool, typer.Option("--causal", help="Intervene too, beside random controls (slower).")
    ] = False,
    weights: options.NamedWeights = None,
    record: options.FromRecord = None,
    prompts: Prompts = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the answer into this .svg file.")] = None,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Ask what goes on inside a model.

    Example: [bold]superweights anatomy kurtosis[/] reads the embedded SmolLM2-135M-Instruct.
    """
    from superweights.subject import Reading, Source
    from superweights.verbs.anatomy import anatomy as verb

    console.check_picture(picture)
    console.check_out(out)
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, None, bos, batch_size)
    further: Any = {"causal": causal, "weights": weights or (), "record": record, "prompts": prompts}
    with console.progress() as bar:
        made = verb(question, source, reading, **further, seed=seed, progress=bar)
    if picture is not None:
        console.write_out(picture, made.findings.picture())
    finish(made, as_json, out, show_record)


# The list of questions stands below the options of --help.
anatomy.__doc__ = (
    f"{anatomy.__doc__}\n\n    Questions:\n\n    {_LIST}\n\n    [bold]all[/]: every one-pass question.\n"
)


def show_record(record: Record) -> None:
    """Each answer's tables and scores, what was refused, and the conditions."""
    found: Anatomy = record.findings
    for answer in found.answers.values():
        for sheet in answer.sheets():
            _print_sheet(sheet)
        for score in answer.scores():
            console.data.print(f"{console.plain(score.name)}: {console.plain(str(score))}", soft_wrap=True)
        console.data.print()
    for word, reason in found.refused.items():
        console.data.print(f"{console.plain(word)}: not answered. {console.plain(reason)}", soft_wrap=True)
    held = found.conditions
    where = f"{cut_words(held['windows'], held['window'])} of {held['text']}, {bos_words(held)}"
    console.data.print(f"[dim]{console.plain(where)}[/]", soft_wrap=True)


def _print_sheet(sheet: Any) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = console.plain(sheet.title)
    for column in sheet.columns:
        table.add_column(console.plain(column), justify="right", no_wrap=True)
    for row in sheet.rows:
        table.add_row(*(console.plain(_cell(value)) for value in row))
    print_table(table)
    if sheet.note:
        console.data.print(f"[dim]{console.plain(sheet.note)}[/]", soft_wrap=True)
    console.data.print()


def _cell(value: float | int | str | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int):
        return str(value)
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
