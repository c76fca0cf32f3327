"""`superweights peel`."""

from __future__ import annotations

import json

from superweights.cli import console, options
from superweights.cli.groups import Chosen, Printed, Shared, Trust, grouped


@grouped
def peel(
    model: options.Model,
    to: options.NewFolder,
    held: Chosen = Chosen(),
    opened: Trust = Trust(),
    shared: Shared = Shared(),
    output: Printed = Printed(),
) -> None:
    """Split a model into a base without its super weights, for any quantizer, and a side-car that holds them.

    superweights attach puts them back beside the quantized base.

    Example: superweights peel embedded --to smollm2-peeled
    """
    from superweights import peel as verb
    from superweights.tables.handed import peeled

    with console.progress() as bar:
        side_car = verb(opened.source(model), to, held.weights or (), record=held.from_, progress=bar)
    if output.as_json:
        console.print_line(json.dumps({"to": str(to), **json.loads(side_car.to_json())}))
    else:
        console.show(peeled(side_car, to))
    shared.push(to)
