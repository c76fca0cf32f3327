"""`superweights lab grow`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from superweights.cli import console, options

Folder = Annotated[Path, typer.Argument(help="A folder with a TokenFormer.")]
Slots = Annotated[int, typer.Option(help="Slots to add to q, k, v and output of every block.")]
To = Annotated[Path, typer.Option(help="A new folder.")]
FfnSlots = Annotated[int | None, typer.Option(help="Slots to add to every FFN; else in the model's ratio.")]
Way = Annotated[
    str, typer.Option(help="exact (the function stays, to the bit), or as it stands in: paper, released.")
]
Optimizer = Annotated[str, typer.Option(help="What becomes of optimizer.pt: carry or restart.")]


def grow(
    folder: Folder,
    slots: Slots,
    to: To,
    ffn_slots: FfnSlots = None,
    way: Way = "exact",
    optimizer: Optimizer = "carry",
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Add slots to a TokenFormer, so that it can learn more and says the same as before.

    Example: superweights lab grow small --slots 16 --to larger
    """
    from superweights.verbs.grow import grow as through

    wanted: dict[str, Any] = {"ffn_slots": ffn_slots, "way": way, "optimizer": optimizer, "seed": seed}
    growth = through(folder, slots, to, **wanted)
    if as_json:
        console.print_line(json.dumps(asdict(growth) | {"folder": str(growth.folder)}))
    else:
        _show(growth)


def _show(growth: Any) -> None:
    before, after = growth.parameters
    q, ffn = growth.slots["q"], growth.slots["ffn"]
    said = "equal to the bit" if growth.logits_equal else f"changed by up to {growth.largest_change:.3g}"
    console.data.print(f"[bold]{console.plain(str(growth.folder))}[/]", soft_wrap=True)
    console.data.print(
        f"  slots: {' + '.join(map(str, q))} in attention, {' + '.join(map(str, ffn))} in each FFN"
    )
    console.data.print(f"  parameters: {before:,} before, {after:,} now")
    console.data.print(f"  logits on random tokens: {said}")
    console.data.print(f"  optimizer: {growth.optimizer}")
