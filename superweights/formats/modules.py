"""The module of the loaded model that each tensor of the file is the weight of."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.stream.skeleton import Skeleton


def modules_of(checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, str]:
    """The module's path for each tensor of `names`.

    Raises `SuperweightsError` for a tensor that is not the weight of one linear layer (stacked experts).
    """
    skeleton = Skeleton(checkpoint, torch.float32, torch.device("cpu"))
    found = {}
    for name in names:
        target = skeleton.targets.get(name, "")
        shape = skeleton.model.get_parameter(target).shape if target else ()
        if target in skeleton.converters or not target.endswith(".weight") or len(shape) != 2:
            stacked = target in skeleton.converters or len(shape) == 3
            raise SuperweightsError(
                f"{name} is a part of stacked experts, which transformers reads in no format but its own."
                if stacked
                else f"{name} is not the weight of one linear layer of its own.",
                hint="write --format packed or dense."
                if stacked
                else "leave gains out, or write --format dense.",
            )
        found[name] = target.removesuffix(".weight")
    return found


def other_linears(checkpoint: Checkpoint, modules: Collection[str]) -> list[str]:
    """Every linear layer of the model that is not among `modules`: heads, vision towers, routers."""
    skeleton = Skeleton(checkpoint, torch.float32, torch.device("cpu"))
    named = skeleton.model.named_modules()
    return [name for name, module in named if isinstance(module, nn.Linear) and name not in modules]


def loadable_packed(checkpoint: Checkpoint, modules: Collection[str]) -> set[str]:
    """Those of `modules` that transformers can load with packed weights.

    While it loads a checkpoint, transformers 5.23 lets the model's own initialisation visit every layer, those too that
    have been loaded. Some ask a linear layer for its `weight`, which a packed one does not have: Falcon's, and that of
    the SigLIP tower in Gemma 3. Each initialisation is tried here on a layer without one.
    """
    model = Skeleton(checkpoint, torch.float32, torch.device("cpu")).model
    tried: dict[tuple[type, type], bool] = {}
    found = set()
    for name in modules:
        family: Any = model
        for end in range(1, name.count(".") + 1):
            above = model.get_submodule(".".join(name.split(".")[:end]))
            family = above if isinstance(above, PreTrainedModel) else family
        layer = model.get_submodule(name)
        kind = type(family), type(layer)
        if kind not in tried:
            tried[kind] = _initialises_without_weight(family, layer)
        if tried[kind]:
            found.add(name)
    return found


def _initialises_without_weight(family: Any, layer: nn.Module) -> bool:
    packed = copy.copy(layer)
    packed._parameters = {name: p for name, p in layer._parameters.items() if name != "weight"}
    try:
        family._init_weights(packed)
    except AttributeError:
        return False
    return True
