"""`superweights adapt train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.printing import finish
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.record import Record


def train(
    model: options.Model,
    task: own.TaskFile,
    to: own.To,
    reward: own.Reward = "exact",
    about: Annotated[
        str, typer.Option(help="What the expert is for, in a few words; dispatch shows it.")
    ] = "",
    method: Annotated[str, typer.Option(help="reinforce, or supervised (next-token loss).")] = "reinforce",
    part: own.Part = "mlp",
    layers: own.Layers = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Only the largest singular values.")] = None,
    steps: own.Steps = 100,
    batch: own.Batch = 32,
    rate: Annotated[float, typer.Option(help="Learning rate of AdamW (cosine).")] = 2e-3,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = 1e-3,
    kl: Annotated[float, typer.Option(help="Weight of the divergence from the base.")] = 0.0,
    kl_direction: Annotated[
        str, typer.Option(help="paper: KL(expert || base); code: the other way.")
    ] = "paper",
    temperature: Annotated[float, typer.Option(help="0: greedy completions.")] = 0.0,
    every: own.Every = 5,
    patience: Annotated[int, typer.Option(min=1, help="Looks without a better one before it stops.")] = 5,
    new_tokens: own.NewTokens = 8,
    stop: own.Stop = "\n",
    chat: own.Chat = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Train an expert on a task: one multiplier for each singular value. A stopped run goes on when started again.

    Example: superweights adapt train embedded --task arithmetic --layers 20-29 --rate 0.01 --to experts/arithmetic
    """
    from superweights.verbs.adapt_train import Manner, adapt_train, task_named

    console.check_out(out)
    asked = task_named(task, new_tokens=new_tokens, stop=stop, seed=seed)
    manner = Manner(method, steps, batch, rate, clip, kl, kl_direction, temperature, every, patience, seed)
    source = options.source(model, dtype, device, allow_pickle, trust_remote_code)
    how: dict[str, Any] = {
        "part": part,
        "layers": own.numbers(layers),
        "rank": rank,
        "about": about,
        "chat": chat,
    }
    with console.progress() as bar:
        record = adapt_train(source, asked, to, reward=reward, manner=manner, progress=bar, **how)
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    found, show = record.findings, console.data.print
    error = "" if found.rise_error is None else f" ±{found.rise_error:.2f}"
    show(
        f"[bold]{console.plain(found.expert)}[/]: {found.parameters:,} numbers, chosen at step {found.best_step}"
    )
    show(
        f"validation: mean reward {found.valid_reward_before:.2f} before, {found.valid_reward:.2f} at that step"
    )
    show(
        f"test ({counted(found.test, 'prompt')}): mean reward {found.test_before:.2f} before, "
        f"{found.test_after:.2f} after ({found.rise:+.2f}{error})",
        soft_wrap=True,
    )
    for note in found.notes:
        show(note)
