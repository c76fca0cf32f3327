"""`superweights adapt merge` and `superweights adapt export`."""

from __future__ import annotations

from typing import Annotated

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.groups import Output, Shared, Trust, grouped

Form = Annotated[str, options.in_output("--as", help="psoft (the same function) or lora (cut to --rank).")]
Rank = Annotated[int, options.in_output(min=1, help="Of the LoRA adapter.")]


@grouped
def merge(
    model: options.Model,
    expert: own.Expert,
    to: options.NewFolder,
    opened: Trust = Trust(),
    shared: Shared = Shared(),
    output: Output = Output(),
) -> None:
    """Write the model with an expert merged in: a dense checkpoint that any program reads.

    Example: superweights adapt merge embedded experts/arithmetic --to smollm2-arithmetic
    """
    from superweights import adapt_write as verb

    with console.progress() as bar:
        record = verb(opened.source(model), expert, to, "dense", progress=bar)
    output.finish(record)
    shared.push(to, record)


@grouped
def export(
    model: options.Model,
    expert: own.Expert,
    to: options.NewFolder,
    form: Form = "psoft",
    rank: Rank = 16,
    opened: Trust = Trust(),
    shared: Shared = Shared(),
    output: Output = Output(),
) -> None:
    """Write an expert as an adapter that plain PEFT loads.

    Example: superweights adapt export embedded experts/arithmetic --to arithmetic-psoft
    """
    from superweights import adapt_write as verb

    with console.progress() as bar:
        record = verb(opened.source(model), expert, to, form, rank=rank, progress=bar)
    output.finish(record)
    shared.push(to, record)
