"""`superweights facts`: where a model's extreme numbers are, as JSON for other tools."""

from __future__ import annotations

from typing import Annotated

from superweights.cli import console, options
from superweights.cli.groups import Cut, Opened, Output, grouped

Schema = Annotated[bool, options.in_output("--schema", help="Print the JSON schema of the facts.")]


@grouped
def facts(
    model: options.ModelOrEmbedded = None,
    cut: Cut = Cut(64, 16),
    opened: Opened = Opened(),
    schema: Schema = False,
    output: Output = Output(),
) -> None:
    """Massive channels, tokens and layers, attention sinks, float16 room per site, underflow per tensor.

    For tools that edit, probe, cache or quantize: the JSON is `findings` of the record, its layout is --schema.

    Example: superweights facts embedded --out facts.json
    """
    if schema:
        from superweights.verbs.schema import facts_schema

        console.print_line(facts_schema())
        return
    from superweights import facts as verb

    with console.progress() as bar:
        record = verb(opened.source(model), cut.reading(), progress=bar)
    output.finish(record)
