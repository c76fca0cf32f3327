"""`superweights anatomy`: questions about what goes on inside a model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.errors import SuperweightsError
from superweights.interpretability.questions import QUESTIONS, answer_all, question_named

if TYPE_CHECKING:
    from rich.table import Table

    from superweights.checkpoint import Checkpoint
    from superweights.interpretability import Answer, Sheet, Study
    from superweights.record import Record

_ALL = "all"
_LIST = "\n\n".join(f"[bold]{question.word}[/]: {question.asks}." for question in QUESTIONS)


Weights = Annotated[
    list[str] | None, typer.Option(help="Super weight TENSOR[i, j] to remove with --causal; repeatable.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="JSON of relations to ask about (relations), instead of the built-in ones."),
]


@dataclass(frozen=True)
class Reading:
    """The text that is read and how it is cut."""

    text: Path | None
    window: int
    windows: int
    bos: bool


def anatomy(
    question: Annotated[str, typer.Argument(help="One of the questions below, or all.")],
    model: options.ModelOrEmbedded = None,
    text: options.TextFile = None,
    window: options.Window = 64,
    windows: options.Windows = 32,
    bos: options.Bos = False,
    causal: Annotated[
        bool, typer.Option("--causal", help="Intervene too, beside random controls (slower).")
    ] = False,
    weights: Weights = None,
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
    from superweights.checkpoint import open_checkpoint
    from superweights.cli.weights import weights_if_any
    from superweights.stream import streaming

    _check(question, causal, picture, out)
    with (
        open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint,
        streaming(checkpoint, dtype=dtype, device=device) as opened,
        _progress() as progress,
    ):
        removed = tuple(weights_if_any(checkpoint, weights, record)) if causal else ()
        conditions, study = _study(checkpoint, opened, Reading(text, window, windows, bos), {
            "weights": removed, "prompts": prompts, "causal": causal, "batch_size": batch_size, "seed": seed,
            "progress": progress,
        })  # fmt: skip
        answers = (
            answer_all(study) if question == _ALL else {question: question_named(question).answer(study)}
        )
    made = _record(question, checkpoint, conditions, answers, seed)
    if picture is not None:
        console.write_out(picture, _draw(answers))
    if out is not None:
        console.write_out(out, made.to_json() + "\n")
    if as_json:
        console.print_line(made.to_json())
    else:
        _print(answers, conditions)


# The list of questions stands below the options of --help.
anatomy.__doc__ = (
    f"{anatomy.__doc__}\n\n    Questions:\n\n    {_LIST}\n\n    [bold]all[/]: every one-pass question.\n"
)


def _check(question: str, causal: bool, picture: Path | None, out: Path | None) -> None:
    if question != _ALL:
        question_named(question)
    elif causal:
        raise SuperweightsError("All questions at once only look.", hint="ask one question with --causal.")
    if picture is not None and picture.suffix.lower() != ".svg":
        raise SuperweightsError(f"Cannot draw into {picture}.", hint="give a file name that ends in .svg.")
    console.check_out(picture)
    console.check_out(out)


@contextmanager
def _progress() -> Iterator[Any]:
    with console.progress_bar("opening") as bar:
        task = bar.task_ids[0]
        yield lambda label, done, total: bar.update(task, description=label, completed=done, total=total)


def _study(
    checkpoint: Checkpoint, model: Any, reading: Reading, rest: dict[str, Any]
) -> tuple[dict[str, Any], Study]:
    """The study, and its conditions for the record."""
    from superweights.interpretability import Study
    from superweights.subject.text import embedded_prose, read_text, windows

    text = read_text(reading.text) if reading.text is not None else embedded_prose()
    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        raise SuperweightsError(
            f"{checkpoint.name} has no tokenizer.", hint="put its tokenizer.json beside the weights."
        )
    ids = windows(tokenizer, text, reading.window, reading.windows, bos=reading.bos)
    conditions = {
        "text": text.name,
        "text_sha256": text.sha256,
        "window": reading.window,
        "windows": reading.windows,
        "bos": reading.bos,
        "causal": rest["causal"],
        "weights": [str(address) for address in rest["weights"]],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    return conditions, Study(model, ids, tokenizer, reading.bos, **rest)


def _record(
    question: str, checkpoint: Checkpoint, conditions: dict[str, Any], answers: dict[str, Any], seed: int
) -> Record:
    from superweights.record import Record, versions

    told = {word: answer for word, answer in answers.items() if not isinstance(answer, str)}
    return Record(
        command=f"anatomy {question}",
        inputs={
            "model": checkpoint.name,
            "revision": checkpoint.revision,
            "text_sha256": conditions["text_sha256"],
        },
        versions=versions(),
        seed=seed,
        scores=tuple(score for answer in told.values() for score in answer.scores()),
        findings={
            "conditions": conditions,
            "answers": {word: asdict(answer) for word, answer in told.items()},
            "refused": {word: answer for word, answer in answers.items() if isinstance(answer, str)},
        },
    )


def _draw(answers: dict[str, Answer | str]) -> str:
    from superweights.picture import svg

    panels = [
        panel for answer in answers.values() if not isinstance(answer, str) for panel in answer.panels()
    ]
    if not panels:
        raise SuperweightsError("This answer has no picture.", hint="leave out --picture.")
    return svg(panels)


def _print(answers: dict[str, Answer | str], conditions: dict[str, Any]) -> None:
    for word, answer in answers.items():
        if isinstance(answer, str):
            console.data.print(
                f"{console.plain(word)}: not answered. {console.plain(answer)}", soft_wrap=True
            )
            continue
        for sheet in answer.sheets():
            _print_sheet(sheet)
        for score in answer.scores():
            console.data.print(f"{console.plain(score.name)}: {console.plain(str(score))}", soft_wrap=True)
        console.data.print()
    where = f"{conditions['windows']} windows of {conditions['window']} tokens of {conditions['text']}"
    console.data.print(
        f"[dim]{console.plain(where)}{', with BOS' if conditions['bos'] else ''}[/]", soft_wrap=True
    )


def _print_sheet(sheet: Sheet) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = console.plain(sheet.title)
    for column in sheet.columns:
        table.add_column(console.plain(column), justify="right", overflow="fold")
    for row in sheet.rows:
        table.add_row(*(console.plain(_cell(value)) for value in row))
    console.with_width(_width(table)).print(table)
    if sheet.note:
        console.data.print(f"[dim]{console.plain(sheet.note)}[/]", soft_wrap=True)
    console.data.print()


def _width(table: Table) -> int:
    """The width to print `table` in: a terminal's own, and as much as it needs where nobody wraps lines."""
    from rich.measure import Measurement

    if console.data.is_terminal or "COLUMNS" in os.environ:
        return console.data.width
    unlimited = console.data.options.update(max_width=10_000)
    return Measurement.get(console.data, unlimited, table).maximum


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
