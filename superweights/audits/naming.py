"""What a quantized checkpoint calls each tensor of the original."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from superweights.checkpoint import Checkpoint
from superweights.decoding import Decoding
from superweights.stream.skeleton import Skeleton


def names_in(decoding: Decoding, original: Checkpoint, tensors: Iterable[str]) -> dict[str, str]:
    """For each of the original's `tensors` that the quantized checkpoint has, its name there.

    Most are called the same. Where transformers' loader renames the original's tensors, a quantizer may have written
    either name; both go into the same parameter of the model, and by that they are found again.
    """
    tensors = list(tensors)
    found = {name: name for name in tensors if name in decoding}
    missing = [name for name in tensors if name not in found]
    taken = set(found.values())
    left = [name for name in decoding.names if name not in taken]
    if not missing or not left or not original.config:
        return found
    skeleton = Skeleton(original, torch.float32, torch.device("cpu"))
    by_target: dict[str, list[str]] = {}
    for name in left:
        target = skeleton.target_of(name)
        if target is not None:
            by_target.setdefault(target, []).append(name)
    for name in missing:
        target = skeleton.targets.get(name)
        there = by_target.get(target, []) if target is not None else []
        if len(there) == 1:
            found[name] = there[0]
    return found
