"""What is handed on to other programs: side-cars, adapters, recipes, grown models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superweights.tables.numbers import plain
from superweights.tables.page import Parts

if TYPE_CHECKING:
    from superweights.quantization.sidecar import SideCar


def peeled(side_car: SideCar, to: Path) -> Parts:
    """What `peel` took out, and what to do next."""
    yield f"[bold]{plain(str(to))}[/]: the model with 0 in these places, and super_weights.json:"
    for kept in side_car.weights:
        yield f"  {plain(str(kept.address))} = {kept.value:z.6g}"
    yield "Next: quantize it with any tool, then"
    yield f"superweights attach QUANTIZED --side-car {plain(str(to))} --to ADAPTER"


def attached(lacking: Mapping[str, float], base: str, to: Path) -> Parts:
    """What `attach` found a base to lack, by address."""
    yield f"[bold]{plain(str(to))}[/]: what {plain(base)} lacks"
    for address, delta in lacking.items():
        yield f"  {plain(address)}: {delta:+z.6g}"


def recipes(made: Sequence[Any]) -> Parts:
    """What `recipe` says to each tool."""
    for each in made:
        yield f"[bold]{each.tool}[/]"
        yield from (f"  {plain(line)}" for line in each.lines())


def grown(growth: Any) -> Parts:
    """What `lab grow` added, and that nothing else changed."""
    before, after = growth.parameters
    q, ffn = growth.slots["q"], growth.slots["ffn"]
    said = "equal to the bit" if growth.logits_equal else f"changed by up to {growth.largest_change:z.3g}"
    yield f"[bold]{plain(str(growth.folder))}[/]"
    yield f"  slots: {' + '.join(map(str, q))} in attention, {' + '.join(map(str, ffn))} in each FFN"
    yield f"  parameters: {before:,} before, {after:,} now"
    yield f"  logits on random tokens: {said}"
    yield f"  optimizer: {growth.optimizer}"
