"""`superweights anatomy`: questions about what goes on inside a model."""

from __future__ import annotations

from inspect import cleandoc
from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import BatchedCut, Chosen, Opened, Output, grouped
from superweights.verbs.questions import questions

_LIST = "\n\n".join(f"[bold]{word}[/]: {asks}." for word, asks in questions().items())

Causal = Annotated[bool, typer.Option("--causal", help="Intervene too, beside random controls (slower).")]
Prompts = Annotated[
    Path | None,
    typer.Option(help="JSON of relations to ask about (relations), instead of the built-in ones."),
]


def anatomy(
    question: Annotated[str, typer.Argument(help="One of the questions below, or all.")],
    model: options.ModelOrEmbedded = None,
    causal: Causal = False,
    held: Chosen = Chosen(),
    prompts: Prompts = None,
    tower: options.Tower = None,
    seed: options.Seed = 0,
    cut: BatchedCut = BatchedCut(window=64, windows=32),
    opened: Opened = Opened(),
    picture: options.Picture = None,
    output: Output = Output(),
) -> None:
    """Ask what goes on inside a model.

    Example: [bold]superweights anatomy kurtosis[/] reads the embedded SmolLM2-135M-Instruct.
    """
    from superweights import anatomy as verb

    asked = {"causal": causal, "weights": held.weights or (), "record": held.from_, "prompts": prompts}
    asked |= {"plot": picture, "tower": tower, "seed": seed}
    with console.progress() as bar:
        record = verb(question, opened.source(model), cut.reading(), progress=bar, **asked)
    output.finish(record)


# The list of questions stands below the options of --help.
anatomy.__doc__ = (
    f"{cleandoc(anatomy.__doc__ or '')}\n\nQuestions:\n\n{_LIST}\n\n[bold]all[/]: every one-pass question.\n"
)
anatomy = grouped(anatomy)
