"""`superweights.recipe`: what makes other quantizers leave the matrices with super weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.checkpoint import opened_checkpoint
from superweights.formats.recipes import TOOLS, Recipe
from superweights.formats.recipes import recipe as for_tool
from superweights.index.choice import some_weights
from superweights.record import Record


def recipe(
    model: Any = None,
    tools: Sequence[str] = (),
    weights: Sequence[Address | str] = (),
    *,
    record: Record | Path | str | None = None,
) -> tuple[Recipe, ...]:
    """For each of `tools` (none: all that are known) its arguments and a text to paste. Weights as in `peel`.

    >>> [print(each.text) for each in recipe("embedded", ["llama.cpp"])]     # doctest: +SKIP
    """
    with opened_checkpoint(model) as checkpoint:
        chosen = some_weights(checkpoint, weights, record).addresses
        return tuple(for_tool(checkpoint, chosen, each) for each in tools or TOOLS)
