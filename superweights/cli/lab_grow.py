"""`superweights lab grow`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.groups import Printed, grouped

Folder = Annotated[Path, typer.Argument(help="A folder with a TokenFormer.")]
Slots = Annotated[int, typer.Option(help="Slots to add to q, k, v and output of every block.")]
FfnSlots = Annotated[int | None, typer.Option(help="Slots to add to every FFN; else in the model's ratio.")]
Way = Annotated[
    str, typer.Option(help="exact (the function stays, to the bit), or as it stands in: paper, released.")
]
Optimizer = Annotated[str, typer.Option(help="What becomes of optimizer.pt: carry or restart.")]


@grouped
def grow(
    folder: Folder,
    slots: Slots,
    to: options.NewFolder,
    ffn_slots: FfnSlots = None,
    way: Way = "exact",
    optimizer: Optimizer = "carry",
    seed: options.Seed = 0,
    output: Printed = Printed(),
) -> None:
    """Add slots to a TokenFormer, so that it can learn more and says the same as before.

    Example: superweights lab grow small --slots 16 --to larger
    """
    from superweights import grow as verb
    from superweights.tables.handed import grown

    wanted: dict[str, Any] = {"ffn_slots": ffn_slots, "way": way, "optimizer": optimizer, "seed": seed}
    growth = verb(folder, slots, to, **wanted)
    if output.as_json:
        console.print_line(json.dumps(asdict(growth) | {"folder": str(growth.folder)}))
    else:
        console.show(grown(growth))
