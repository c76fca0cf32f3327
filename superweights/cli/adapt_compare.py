"""`superweights adapt compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.groups import Output, Placed, grouped

Tasks = Annotated[str, typer.Option(help="Made tasks, or files of JSON lines, by commas.")]
ArmNames = Annotated[
    str,
    typer.Option(help="Of svf, lora, lora-paper, super, largest, smallest, random, random-z, shuffled-z."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Splits and runs of each.")]
Rate = Annotated[float, typer.Option(help="Learning rate of SVF.")]
LoraRate = Annotated[float, typer.Option(help="Learning rate of LoRA.")]
WeightRate = Annotated[float, typer.Option(help="Learning rate of single weights.")]
Count = Annotated[int | None, typer.Option(min=1, help="Single weights that may move.")]
StoreFile = Annotated[Path | None, typer.Option(help="Results are kept in this file; a stopped run goes on.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the runs.")]
OnRay = Annotated[bool, typer.Option("--ray", help="Workers on a Ray cluster.")]


@grouped
def compare(
    model: options.Model,
    tasks: Tasks = "arithmetic",
    arms: ArmNames = "svf,lora,random-z,shuffled-z",
    seeds: Seeds = 5,
    part: own.Part = "mlp",
    layers: own.Layers = None,
    rate: Rate = 2e-3,
    lora_rate: LoraRate = 2e-3,
    weight_rate: WeightRate = 2e-3,
    count: Count = None,
    weights: options.NamedWeights = None,
    reward: own.Reward = "exact",
    steps: own.Steps = 100,
    batch: own.Batch = 32,
    every: own.Every = 5,
    method: own.Method = "reinforce",
    store: StoreFile = None,
    workers: Workers = 1,
    ray: OnRay = False,
    opened: Placed = Placed(),
    output: Output = Output(),
) -> None:
    """Compare SVF with LoRA, single weights and controls on tasks, over seeds, with standard errors.

    Example: superweights adapt compare embedded --tasks arithmetic --layers 20-29 --rate 0.01 --store runs.sqlite
    """
    from superweights.verbs.adapt_compare import Manner, adapt_compare, arms_of

    chosen = arms_of(arms, part, layers, rate, lora_rate, weight_rate, weights or (), count)
    manner = Manner(method, steps=steps, batch=batch, every=every)
    how = {"seeds": seeds, "reward": reward, "manner": manner, "store": store, "workers": workers, "ray": ray}
    named = [name for name in tasks.split(",") if name]
    with console.progress() as bar:
        record = adapt_compare(opened.source(model), named, chosen, progress=bar, **how)
    output.finish(record)
