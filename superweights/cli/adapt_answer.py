"""`superweights adapt answer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.groups import Opened, Output, grouped

Prompt = Annotated[list[str], typer.Option(help="A prompt; repeatable.")]
Classifier = Annotated[Path | None, typer.Option(help="An expert trained to choose among them.")]
Answering = Annotated[str | None, typer.Option(help="Who is to answer; other: the base.")]


@grouped
def answer(
    model: options.Model,
    experts: own.Experts,
    prompt: Prompt,
    classifier: Classifier = None,
    expert: Answering = None,
    new_tokens: own.NewTokens = 64,
    stop: own.Stop = None,
    chat: own.Chat = False,
    opened: Opened = Opened(),
    output: Output = Output(),
) -> None:
    """Answer prompts in two passes: the model chooses an expert, the expert answers.

    Example: superweights adapt answer embedded --experts experts --prompt '2+3=' --new-tokens 1
    """
    from superweights import adapt_answer as verb

    how = {"new_tokens": new_tokens, "stop": stop, "chat": chat}
    who = {"classifier": classifier, "expert": expert}
    with console.progress() as bar:
        record = verb(opened.source(model), experts, prompt, progress=bar, **who, **how)
    output.finish(record)
