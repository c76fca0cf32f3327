"""`superweights adapt mix`."""

from __future__ import annotations

from typing import Annotated

import typer

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.groups import Opened, Output, grouped

Shots = Annotated[int, typer.Option(min=1, help="Training prompts to choose by.")]
Population = Annotated[int, typer.Option(min=2, help="Members of each iteration.")]
Iterations = Annotated[int, typer.Option(min=1, help="Iterations of the search.")]
About = Annotated[str, typer.Option(help="What the mixed expert is for.")]


@grouped
def mix(
    model: options.Model,
    experts: own.Experts,
    task: own.TaskFile,
    to: options.NewFolder,
    shots: Shots = 10,
    reward: own.Reward = "exact",
    population: Population = 32,
    iterations: Iterations = 50,
    about: About = "",
    new_tokens: own.NewTokens = 8,
    stop: own.Stop = "\n",
    chat: own.Chat = False,
    seed: options.Seed = 0,
    opened: Opened = Opened(),
    output: Output = Output(),
) -> None:
    """Mix experts into a new one by a few examples (cross-entropy method).

    Example: superweights adapt mix embedded --experts experts --task sums.jsonl --to mixed
    """
    from superweights.verbs.adapt_mix import Search, adapt_mix, task_named

    asked = task_named(task, new_tokens=new_tokens, stop=stop, seed=seed)
    how = {"shots": shots, "reward": reward, "about": about, "chat": chat}
    search = Search(population, iterations=iterations, seed=seed)
    with console.progress() as bar:
        record = adapt_mix(opened.source(model), experts, asked, to, search=search, progress=bar, **how)
    output.finish(record)
