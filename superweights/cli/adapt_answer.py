"""`superweights adapt answer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.printing import finish

if TYPE_CHECKING:
    from superweights.record import Record


def answer(
    model: options.Model,
    experts: own.Experts,
    prompt: Annotated[list[str], typer.Option(help="A prompt; repeatable.")],
    classifier: Annotated[Path | None, typer.Option(help="An expert trained to choose among them.")] = None,
    expert: Annotated[str | None, typer.Option(help="Who is to answer; other: the base.")] = None,
    new_tokens: own.NewTokens = 64,
    stop: own.Stop = None,
    chat: own.Chat = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Answer prompts in two passes: the model chooses an expert, the expert answers.

    Example: superweights adapt answer embedded --experts experts --prompt '2+3=' --new-tokens 1
    """
    from superweights.verbs.adapt_answer import adapt_answer

    console.check_out(out)
    source = options.source(model, dtype, device, allow_pickle, trust_remote_code)
    with console.progress() as bar:
        record = adapt_answer(
            *(source, experts, prompt),
            classifier=classifier, expert=expert, new_tokens=new_tokens, stop=stop, chat=chat, progress=bar,
        )  # fmt: skip
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    show = console.data.print
    for each in record.findings.answers:
        chances = ", ".join(f"{name} {chance:.2f}" for name, chance in each["choice"]["chances"].items())
        why = f"{each['choice']['strategy']}{': ' if chances else ''}{chances}"
        show(f"[bold]{console.plain(each['choice']['expert'])}[/] ({console.plain(why)})", soft_wrap=True)
        show(f"{console.plain(each['prompt'])}[bold]{console.plain(each['text'])}[/]", soft_wrap=True)
    if record.findings.first_pass is not None:
        show(f"choosing took {record.findings.first_pass:.2f} of the time of answering.")
