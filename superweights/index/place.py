"""Where a known weight lies in a checkpoint, and how close the number there is to the known one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from superweights.index.entry import KnownWeight

# Two roundings to bfloat16 (8 bits of significand): one when the value was published, one in the file.
ROUNDING = 2.0**-8
# A fine-tune may move a super weight by this share of it; beyond that we no longer call it the same number.
_DRIFT = 0.25
# A matching value must be this many times the median |weight| of its row, or chance could match it.
_STANDS_OUT = 6.0

Blocks = dict[str | None, list[str]]


class CheckpointLike(Protocol):
    """What a look-up needs of an open checkpoint; `superweights.checkpoint.Checkpoint` has it."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def tensors(self) -> Mapping[str, Any]: ...

    def element(self, name: str, index: tuple[int, ...]) -> float: ...

    def read_rows(self, name: str, start: int, stop: int) -> Any: ...


@dataclass(frozen=True)
class KnownPlace:
    """Where a known weight lies in a checkpoint, what stands there, and how far it moved, as a share.

    `like_the_known` says that the number stands out from its row, and that its row is as long as it was.
    `index` is None for an entry about a whole row, `moved` where no value is known.
    """

    tensor: str
    """Its name in this checkpoint."""
    index: tuple[int, ...] | None
    value: float | None = None
    moved: float | None = None
    like_the_known: bool = False

    @property
    def agrees(self) -> bool:
        """Whether value and surroundings are those of the known weight, light training allowed."""
        return self.like_the_known and self.moved is not None and self.moved <= _DRIFT


def find_place(
    known: KnownWeight, checkpoint: CheckpointLike, blocks: Blocks | None = None
) -> KnownPlace | None:
    """The best place for `known`: a tensor of its path, else one of its shape and block if its value agrees."""
    inside = (blocks or by_block(checkpoint)).get(_block(known.tensor), [])
    fits = [
        (name, turn)
        for name in inside
        if (turn := _turned(known, checkpoint.tensors[name].shape)) is not None
    ]
    own = [fit for fit in fits if _same_path(known, fit[0])]
    others = fits if known.value is not None and known.shape else []
    places = [_look(known, checkpoint, name, turned) for name, turned in own or others]
    return next((place for place in places if place.agrees), places[0] if own else None)


def by_block(checkpoint: CheckpointLike) -> Blocks:
    """The names of all tensors, by the block they belong to."""
    blocks: Blocks = {}
    for name in checkpoint.tensors:
        blocks.setdefault(_block(name), []).append(name)
    return blocks


def _turned(known: KnownWeight, shape: tuple[int, ...]) -> bool | None:
    """Whether a tensor of `shape` stores `known` transposed (`[in, out]`); None where it cannot hold it."""
    need, shape = known.shape, tuple(shape)
    if len(known.index) == 1:  # a gain or a bias
        return False if len(shape) == 1 and (need is None or shape == need[:1]) else None
    if known.expert is not None and len(shape) == 3 and known.expert < shape[0]:
        shape = shape[1:]  # experts stacked in one tensor
    if len(shape) != 2:
        return None
    if need is None:
        return False if all((i or 0) < n for i, n in zip(known.index[-2:], shape, strict=False)) else None
    return shape != need if shape in (need, need[::-1]) else None


def _look(known: KnownWeight, checkpoint: CheckpointLike, tensor: str, turned: bool) -> KnownPlace:
    address = known.address
    if address is None:
        return KnownPlace(tensor, None)
    index = address.index[::-1] if turned else address.index
    stacked = len(checkpoint.tensors[tensor].shape) > len(index)
    if stacked and known.expert is not None:
        index = (known.expert, *index)
    value = float(checkpoint.element(tensor, index))
    if known.value is None:
        return KnownPlace(tensor, index, value)
    moved = abs(value - known.value) / abs(known.value)
    if not moved <= _DRIFT:
        return KnownPlace(tensor, index, value, moved)
    if len(index) == 1:
        row = checkpoint.read_rows(tensor, 0, checkpoint.tensors[tensor].shape[0]).float()
    else:
        row = checkpoint.read_rows(tensor, index[0], index[0] + 1).float()
        row = row[0][index[1]] if len(index) > 2 else row
    stands_out = abs(value) > _STANDS_OUT * float(row.abs().median())
    return KnownPlace(
        tensor, index, value, moved, stands_out and _is_long_as(known, float(row.norm()), turned)
    )


def _is_long_as(known: KnownWeight, norm: float, turned: bool) -> bool:
    """Whether the row's norm is the one that was measured, where one was."""
    mark = known.fingerprint
    measured = None if mark is None else mark.column_norm if turned else mark.row_norm
    return measured is None or abs(norm - measured) <= _DRIFT * measured


def _same_path(known: KnownWeight, here: str) -> bool:
    """Whether two tensor names end in the same path below the model's own prefix.

    An expert's name with its number also fits the stack of all experts without it.
    """
    published = known.tensor.split(".", 1)[1]
    if f".{here}".endswith("." + published):
        return True
    if known.expert is None:
        return False
    stack = published.replace(f".experts.{known.expert}.", ".experts.", 1)
    return f".{here}".removesuffix(".weight").endswith("." + stack.removesuffix(".weight"))


def _block(name: str) -> str | None:
    return next((part for part in name.split(".") if part.isdigit()), None)
