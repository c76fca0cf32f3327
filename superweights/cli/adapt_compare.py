"""`superweights adapt compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.printing import finish, print_table, table

if TYPE_CHECKING:
    from superweights.record import Record


def compare(
    model: options.Model,
    tasks: Annotated[str, typer.Option(help="Made tasks, or files of JSON lines, by commas.")] = "arithmetic",
    arms: Annotated[
        str,
        typer.Option(
            help="Of svf, lora, lora-paper, super, largest, smallest, random, random-z, shuffled-z."
        ),
    ] = "svf,lora,random-z,shuffled-z",
    seeds: Annotated[int, typer.Option(min=1, help="Splits and runs of each.")] = 5,
    part: own.Part = "mlp",
    layers: own.Layers = None,
    rate: Annotated[float, typer.Option(help="Learning rate of SVF.")] = 2e-3,
    lora_rate: Annotated[float, typer.Option(help="Learning rate of LoRA.")] = 2e-3,
    weight_rate: Annotated[float, typer.Option(help="Learning rate of single weights.")] = 2e-3,
    count: Annotated[int | None, typer.Option(min=1, help="Single weights that may move.")] = None,
    weights: options.NamedWeights = None,
    reward: own.Reward = "exact",
    steps: own.Steps = 100,
    batch: own.Batch = 32,
    every: own.Every = 5,
    kept: Annotated[
        Path | None, typer.Option(help="Results so far, as JSON lines; a stopped run goes on.")
    ] = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Compare SVF with LoRA, single weights and controls on tasks, over seeds, with standard errors.

    Example: superweights adapt compare embedded --tasks arithmetic --layers 20-29 --rate 0.01 --kept runs.jsonl
    """
    from superweights.address import Address
    from superweights.verbs.adapt_compare import Arms, Manner, adapt_compare

    console.check_out(out)
    addresses = tuple(Address.several(weights or ()))
    chosen = Arms(
        tuple(arms.split(",")), part, own.numbers(layers), rate, lora_rate, weight_rate, addresses, count
    )
    manner = Manner(steps=steps, batch=batch, every=every)
    with console.progress() as bar:
        record = adapt_compare(
            *(options.source(model, device=device), tasks.split(","), chosen),
            seeds=seeds, reward=reward, manner=manner, kept=kept, progress=bar,
        )  # fmt: skip
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    from superweights.cli.printing import percent

    rows = table("task", "arm", "numbers", "right", "rise over the base", "seeds")
    for each in record.findings.rows:
        numbers = f"{each['parameters']:,}" if each["parameters"] else ""
        cells = percent(each["right"]), percent(each["gain"]), str(each["gain"].n)
        rows.add_row(each["task"], each["arm"], numbers, *cells)
    print_table(rows)
    console.data.print("± is the standard error over seeds; for a 95 % interval of five, times 2.8.")
