"""`superweights.recipe`: what makes other quantizers leave the matrices with super weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.checkpoint import opened_checkpoint
from superweights.formats.recipes import TOOLS, NoRecipe, Recipe, recipes, write_recipe
from superweights.index.choice import some_weights
from superweights.record import Record


def recipe(
    model: Any = None,
    tools: Sequence[str] = (),
    weights: Sequence[Address | str] = (),
    *,
    record: Record | Path | str | None = None,
    to: Path | str | None = None,
) -> tuple[Recipe | NoRecipe, ...]:
    """For each of `tools` (none: all that are known) its arguments and a text to paste, or why there is none.

    Weights as in `peel`. The file that a single tool reads is written to `to`.

    >>> [print(each.text) for each in recipe("embedded", ["llama.cpp"])]     # doctest: +SKIP
    """
    with opened_checkpoint(model) as checkpoint:
        chosen = some_weights(checkpoint, weights, record)
        found = recipes(checkpoint, chosen.addresses, tuple(tools or TOOLS), chosen.notes(whole=True))
    if to is not None:
        write_recipe(found, Path(to))
    return found
