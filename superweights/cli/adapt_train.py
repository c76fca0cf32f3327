"""`superweights adapt train`."""

from __future__ import annotations

from typing import Annotated

import typer

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.groups import Opened, Output, grouped

About = Annotated[str, typer.Option(help="What the expert is for, in a few words; dispatch shows it.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Only the largest singular values.")]
Rate = Annotated[float, typer.Option(help="Learning rate of AdamW (cosine).")]
Clip = Annotated[float, typer.Option(help="Largest norm of the gradient.")]
Kl = Annotated[float, typer.Option(help="Weight of the divergence from the base.")]
KlDirection = Annotated[str, typer.Option(help="paper: KL(expert || base); code: the other way.")]
Temperature = Annotated[float, typer.Option(help="0: greedy completions.")]
Patience = Annotated[int, typer.Option(min=1, help="Looks without a better one before it stops.")]


@grouped
def train(
    model: options.Model,
    task: own.TaskFile,
    to: options.NewFolder,
    reward: own.Reward = "exact",
    about: About = "",
    method: own.Method = "reinforce",
    part: own.Part = "mlp",
    layers: own.Layers = None,
    rank: Rank = None,
    steps: own.Steps = 100,
    batch: own.Batch = 32,
    rate: Rate = 2e-3,
    clip: Clip = 1e-3,
    kl: Kl = 0.0,
    kl_direction: KlDirection = "paper",
    temperature: Temperature = 0.0,
    every: own.Every = 5,
    patience: Patience = 5,
    new_tokens: own.NewTokens = 8,
    stop: own.Stop = "\n",
    chat: own.Chat = False,
    seed: options.Seed = 0,
    opened: Opened = Opened(),
    output: Output = Output(),
) -> None:
    """Train an expert on a task: one multiplier for each singular value. A stopped run goes on when started again.

    Example: superweights adapt train embedded --task arithmetic --layers 20-29 --rate 0.01 --to experts/arithmetic
    """
    from superweights.verbs.adapt_train import Manner, adapt_train, task_named

    asked = task_named(task, new_tokens=new_tokens, stop=stop, seed=seed)
    manner = Manner(method, steps, batch, rate, clip, kl, kl_direction, temperature, every, patience, seed)
    what = {"part": part, "layers": layers, "rank": rank, "about": about, "chat": chat, "reward": reward}
    with console.progress() as bar:
        record = adapt_train(opened.source(model), asked, to, manner=manner, progress=bar, **what)
    output.finish(record)
