"""Which sub-layers hold a super weight: these are not dropped unless one asks for it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from superweights.address import Address
from superweights.pruning.sublayers import Sublayers
from superweights.subject import layout_of


def carriers(
    model: nn.Module, sublayers: Sublayers, weights: Iterable[Address]
) -> dict[tuple[str, int], Address]:
    """The sub-layers, as (`attention` or `mlp`, layer), that hold one of `weights`; one outside them is left out.

    `model` is a `streaming(checkpoint)`, which knows where the checkpoint's tensors went.
    """
    layout = layout_of(model)
    found = {}
    for address in weights:
        parameter, _ = layout.parameter_of(address)
        place = sublayers.holding(parameter)
        if place is not None:
            found.setdefault(place, address)
    return found
