"""`superweights adapt mix`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.printing import finish

if TYPE_CHECKING:
    from superweights.record import Record


def mix(
    model: options.Model,
    experts: own.Experts,
    task: own.TaskFile,
    to: own.To,
    shots: Annotated[int, typer.Option(min=1, help="Training prompts to choose by.")] = 10,
    reward: own.Reward = "exact",
    population: Annotated[int, typer.Option(min=2, help="Members of each iteration.")] = 32,
    iterations: Annotated[int, typer.Option(min=1, help="Iterations of the search.")] = 50,
    about: Annotated[str, typer.Option(help="What the mixed expert is for.")] = "",
    new_tokens: own.NewTokens = 8,
    stop: own.Stop = "\n",
    chat: own.Chat = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Mix experts into a new one by a few examples (cross-entropy method).

    Example: superweights adapt mix embedded --experts experts --task sums.jsonl --to mixed
    """
    from superweights.verbs.adapt_mix import Search, adapt_mix, task_named

    console.check_out(out)
    asked = task_named(task, new_tokens=new_tokens, stop=stop, seed=seed)
    search = Search(population, iterations=iterations, seed=seed)
    with console.progress() as bar:
        record = adapt_mix(
            *(options.source(model, dtype, device), experts, asked, to),
            shots=shots, reward=reward, search=search, about=about, chat=chat, progress=bar,
        )  # fmt: skip
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    found = record.findings
    for name, alpha in zip(found.experts, found.alpha, strict=True):
        console.data.print(f"{alpha:.3f} of [bold]{console.plain(name)}[/]")
    console.data.print(
        f"mean reward {found.reward_on_shots:.2f} on {found.shots} shots; on the test split {found.test_before:.2f} "
        f"before, {found.test_after:.2f} after",
        soft_wrap=True,
    )
