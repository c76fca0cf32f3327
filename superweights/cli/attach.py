"""`superweights attach`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Placed, Printed, Shared, grouped

SideCarFolder = Annotated[Path, typer.Option(help="The folder that superweights peel wrote.")]
To = Annotated[Path, options.in_output(help="A new folder (PEFT), or for a .gguf base a new .gguf file.")]


@grouped
def attach(
    base: options.Model,
    side_car: SideCarFolder,
    to: To,
    opened: Placed = Placed(),
    shared: Shared = Shared(),
    output: Printed = Printed(),
) -> None:
    """Write what a quantized base lacks of its super weights as a LoRA adapter: for PEFT and vLLM, or llama.cpp.

    Example: superweights attach smollm2-peeled-int4 --side-car smollm2-peeled --to smollm2-adapter
    """
    from superweights import attach as verb
    from superweights.tables.handed import attached

    found = verb(opened.source(base), side_car, to)
    if output.as_json:
        console.print_line(json.dumps(asdict(found)))
    else:
        console.show(attached(found.lacking, base, to))
    shared.push(to)
