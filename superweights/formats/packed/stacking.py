"""Which tensors of a checkpoint become parts of stacked experts, and where each lies in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from superweights.checkpoint import Checkpoint
from superweights.formats.packed.place import Piece, place_of
from superweights.stream.skeleton import Skeleton


@dataclass(frozen=True)
class Stacked:
    """A stored tensor among the experts of a model."""

    parameter: str
    """The parameter of the loaded model that it is a part of."""
    module: str
    """What its packed parts are called: those of this module."""
    piece: Piece
    """Its place in the parameter."""


def stacked_pieces(checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, Stacked]:
    """Those of `names` that transformers' loader puts into parameters of three axes, with their places.

    One parameter at a time is in memory, in the dtype of the file. Raises as `place_of`.
    """
    skeleton = Skeleton(checkpoint, torch.float32, torch.device("cpu"))
    asked, sources = set(names), {}
    for name, target in skeleton.targets.items():
        first = skeleton.first_target.get(target, target)
        if name in asked and skeleton.model.get_parameter(target).dim() == 3:
            sources.setdefault(first, []).append(name)
    found: dict[str, Stacked] = {}
    for target, several in sources.items():
        parameter = skeleton.model.get_parameter(target)
        path, _, leaf = target.rpartition(".")
        if target not in skeleton.converters:
            (name,) = several
            found[name] = Stacked(target, f"{path}.packed.{leaf}.0", Piece(None, 0, 0, False))
            continue
        made = skeleton.convert(target)[target]
        assert parameter.is_meta, "nothing of this skeleton stays loaded"
        for number, name in enumerate(several):
            piece = place_of(name, checkpoint.read(name).to(made.dtype), made)
            checkpoint.release([name])
            found[name] = Stacked(target, f"{path}.packed.{leaf}.{number}", piece)
    return found
