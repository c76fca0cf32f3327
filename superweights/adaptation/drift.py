"""Two checkpoints of one family, weight by weight: what fine-tuning moved, and what became of super weights.

No model runs: tensors are read one at a time from both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent

# How many of the weights that moved most are listed of all tensors together.
_MOST = 10


@dataclass(frozen=True)
class TensorDrift:
    """How far a tensor moved: `changed` is the norm of the difference over the norm of the base, `share` the share of
    its numbers that differ at all, `typical` the root mean square difference and `largest` the largest one."""

    tensor: str
    changed: float
    share: float
    typical: float
    largest: float


@dataclass(frozen=True)
class WeightDrift:
    """A weight in both checkpoints: its value, how many of its tensor are larger in magnitude (0: none), and how far it
    moved in units of the typical change of its tensor (0 where nothing there changed)."""

    address: Address
    """The weight."""
    base: float
    """Its value in the base."""
    tuned: float
    """Its value in the other."""
    place_base: int
    """How many are larger in the base."""
    place_tuned: int
    """How many are larger in the other."""
    moved: float


@dataclass(frozen=True)
class Drift:
    """What `tuned` changed of `base`.

    `weights` are the super weights asked about, `most` the weights that moved most in units of their own size's tensor
    (`moved`), whether they are super weights or not. `only_base` and `only_tuned` are tensors that one of the two
    lacks (an untied head, an added token is a change of shape and counts as both).
    """

    tensors: tuple[TensorDrift, ...]
    weights: tuple[WeightDrift, ...]
    most: tuple[WeightDrift, ...]
    only_base: tuple[str, ...]
    only_tuned: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every shared number is the same."""
        return all(tensor.share == 0 for tensor in self.tensors)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = asdict(self)
        for key in ("weights", "most"):
            told[key] = [{**asdict(w), "address": str(w.address)} for w in getattr(self, key)]
        return {**told, "same": self.same}


def drift(
    tuned: Checkpoint,
    base: Checkpoint,
    addresses: Sequence[Address] = (),
    *,
    progress: Progress = silent,
) -> Drift:
    """How far `tuned` is from `base`, tensor by tensor, and what became of the weights at `addresses`.

    Differences are taken in float32 of what each stores. Raises `SuperweightsError` for two checkpoints that share no
    tensor of one shape, and for an address that the base lacks.
    """
    shared = [
        n for n in base.tensors if n in tuned.tensors and base.tensors[n].shape == tuned.tensors[n].shape
    ]
    if not shared:
        raise SuperweightsError(
            f"{tuned.name} and {base.name} have no tensor in common.",
            hint="give a fine-tuned checkpoint and the base it was made from.",
        )
    for address in addresses:
        base.element(address.tensor, address.index)
    by_tensor: dict[str, list[Address]] = {}
    for address in addresses:
        by_tensor.setdefault(address.tensor, []).append(address)
    tensors, weights, most = [], [], []
    for done, name in enumerate(shared, 1):
        before, after = base.read(name).float(), tuned.read(name).float()
        difference = after - before
        tensors.append(_tensor(name, before, difference))
        weights += [_weight(address, before, after, difference) for address in by_tensor.get(name, ())]
        if before.dim() == 2:
            most = _moved_most(name, before, after, difference, most)
        base.release([name])
        tuned.release([name])
        progress(name, done, len(shared))
    return Drift(
        tuple(tensors),
        tuple(weights),
        tuple(most),
        tuple(sorted(set(base.tensors) - set(shared))),
        tuple(sorted(set(tuned.tensors) - set(shared))),
    )


def _tensor(name: str, before: Tensor, difference: Tensor) -> TensorDrift:
    norm = before.norm().item()
    changed = difference.norm().item()
    share = (difference != 0).float().mean().item()
    typical = difference.square().mean().sqrt().item()
    return TensorDrift(name, changed / norm if norm else 0.0, share, typical, difference.abs().max().item())


def _weight(address: Address, before: Tensor, after: Tensor, difference: Tensor) -> WeightDrift:
    at = address.index
    typical = difference.square().mean().sqrt().item()
    places = [int((each.abs() > each[at].abs()).sum()) for each in (before, after)]
    moved = difference[at].abs().item() / typical if typical else 0.0
    return WeightDrift(address, before[at].item(), after[at].item(), places[0], places[1], moved)


def _moved_most(
    name: str, before: Tensor, after: Tensor, difference: Tensor, most: list[WeightDrift]
) -> list[WeightDrift]:
    """The list with this tensor's farthest moved weights in it."""
    if not bool(difference.any()):
        return most
    flat = difference.abs().flatten().topk(min(3, difference.numel())).indices
    rows = [torch.unravel_index(place, difference.shape) for place in flat]
    here = [_weight(Address(name, tuple(int(i) for i in row)), before, after, difference) for row in rows]
    return sorted([*most, *here], key=lambda each: -each.moved)[:_MOST]
