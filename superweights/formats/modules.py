"""The module of the loaded model that each tensor of the file is the weight of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
            raise SuperweightsError(
                f"{name} is not the weight of one linear layer of its own.",
                hint="leave stacked experts and gains out, or write --format dense.",
            )
        found[name] = target.removesuffix(".weight")
    return found
