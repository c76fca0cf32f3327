"""How a lab model's weights start: by module, so that arms that differ in one part share all the others."""

from __future__ import annotations

import math

import torch
from torch import nn

from superweights.lab.architecture import Architecture
from superweights.lab.models.linear import Writing
from superweights.lab.seeding import seed_of


def start(module: nn.Module, architecture: Architecture) -> None:
    """The first values of one module's own parameters, drawn from torch's global generator."""
    std = architecture.init_std
    if isinstance(module, Writing) and architecture.init == "depth_scaled":
        std /= math.sqrt(2 * architecture.layers)
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, std)
    elif "weight" in module._parameters:
        nn.init.ones_(module.weight)  # type: ignore[arg-type]
    reset = getattr(module, "reset", None)
    if reset is not None:
        reset(std)


def start_by_name(model: nn.Module, architecture: Architecture, seed: int) -> None:
    """Every module's first values, each drawn from a generator of its own, seeded by `seed` and its name.

    A matrix that two modules share is drawn for the first.
    """
    drawn: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        for name, module in model.named_modules():
            own = {id(parameter) for parameter in module.parameters(recurse=False)}
            if own and not own <= drawn:
                torch.manual_seed(seed_of(seed, name))
                start(module, architecture)
                drawn |= own
