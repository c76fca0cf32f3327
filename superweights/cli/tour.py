"""`superweights tour`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.groups import Chosen, Output, Placed, grouped


@grouped
def tour(
    model: options.ModelOrEmbedded = None,
    chosen: Chosen = Chosen(),
    prompt: Annotated[str | None, typer.Option(help="What is continued with and without the weight.")] = None,
    seed: options.Seed = 0,
    opened: Placed = Placed(),
    output: Output = Output(),
) -> None:
    """Show in about a minute what super weights are: text, cost, inside and int4, with and without them.

    Example: superweights tour
    """
    from superweights import tour as verb

    asked = {"record": chosen.from_, "prompt": prompt, "seed": seed}
    tell = (lambda part: None) if output.as_json else _tell
    with console.progress() as bar:
        record = verb(opened.source(model), chosen.weights or (), tell=tell, progress=bar, **asked)
    output.keep(record)
    if output.as_json:
        output.finish(record)


def _tell(part: Any) -> None:
    from superweights.tables.tour import one_part

    console.show(one_part(part))
