"""A parameter that is shared among processes: single elements, and products with its parts, as if it were whole.

transformers' tensor-parallel plan keeps each parameter as torch's `DTensor`: every process holds a slice along one
axis, and multiplies with that slice alone. What is asked here is asked by all processes at once, and each gets the same
answer: the residual stream is the same in all of them, so they walk the same way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from superweights.axes import Float


def is_shared(tensor: Any) -> bool:
    """Whether `tensor` is held in slices by several processes, or at least managed like that."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "placements")


def local(tensor: Any) -> Tensor:
    """The slice of a shared tensor that this process holds; it is written through."""
    return tensor.detach().to_local()


def axis_of(tensor: Any) -> int | None:
    """Along which axis a shared tensor is cut; None where each process holds all of it."""
    found = [place.dim % tensor.ndim for place in tensor.placements if place.is_shard()]
    return found[0] if found else None


def is_owner(tensor: Any, index: tuple[int, ...]) -> bool:
    """Whether this process holds an element of a shared tensor."""
    return _where(tensor, index)[0] in (None, tensor.device_mesh.get_local_rank())


def place(tensor: Any, index: tuple[int, ...]) -> tuple[int, ...]:
    """Where an element stands in the slice of the process that holds it."""
    return _where(tensor, index)[1]


def element(tensor: Any, index: tuple[int, ...]) -> Tensor:
    """One number of a shared tensor, bit for bit, in every process."""
    owner, here = _where(tensor, index)
    held = local(tensor)
    found = held[here].clone() if is_owner(tensor, index) else held.new_zeros(())
    if owner is not None:
        torch.distributed.broadcast(found, group=_group(tensor), group_src=owner)
    return found


def put(tensor: Any, index: tuple[int, ...], bits: Tensor) -> None:
    """Write one number of a shared tensor, in the process that holds it."""
    if is_owner(tensor, index):
        held = local(tensor)
        held[place(tensor, index)] = bits.to(held.device)


def whole(tensor: Any) -> Tensor:
    """All of a shared tensor, in every process."""
    return tensor.detach().full_tensor()


def gathered(part: Float[Tensor, "*axes width"], like: Any, width: int) -> Float[Tensor, "*axes all"]:
    """The slices of all processes side by side along the last axis, `width` long then; `like` says who they are."""
    from torch.distributed.tensor import DTensor, Shard

    shape = (*part.shape[:-1], width)
    held = DTensor.from_local(
        part.detach().contiguous(),
        like.device_mesh,
        [Shard(part.ndim - 1)],
        run_check=False,
        shape=torch.Size(shape),
        stride=torch.empty(shape, device="meta").stride(),
    )
    return held.full_tensor()


def summed(part: Float[Tensor, "rows outputs"], like: Any) -> Float[Tensor, "rows outputs"]:
    """The sum of what all processes hold: the product of which each has computed its neurons' share."""
    total = part.detach().clone()
    torch.distributed.all_reduce(total, group=_group(like))
    return total


def _where(tensor: Any, index: tuple[int, ...]) -> tuple[int | None, tuple[int, ...]]:
    """Which process holds an element (None: all), and where in its slice."""
    axis = axis_of(tensor)
    if axis is None:
        return None, index
    size = tensor.device_mesh.size()
    step = -(-tensor.shape[axis] // size)  # as torch.chunk cuts
    owner = index[axis] // step
    here = list(index)
    here[axis] = index[axis] - owner * step
    return owner, tuple(here)


def _group(tensor: Any) -> Any:
    return tensor.device_mesh.get_group()
