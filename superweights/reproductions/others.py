"""The other large weights, to prune in place of the super weights: "the other 7,000 largest" and its readings."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.address import Address
from superweights.checkpoint import Checkpoint

# The authors' code prunes this share of each tensor.
CODE_SHARE = 1e-6
# 7,000 weights are this share of Llama-7B's block matrices: 32 layers of 4 * 4096² + 3 * 4096 * 11008 numbers.
PAPER_SHARE = 7000 / (32 * (4 * 4096**2 + 3 * 4096 * 11008))


@dataclass(frozen=True)
class Others:
    """Other large weights: by which rule they were taken, and the smallest magnitude among them."""

    rule: str
    addresses: tuple[Address, ...]
    """The weights."""
    smallest: float | None


def largest_global(checkpoint: Checkpoint, count: int, avoid: Collection[Address]) -> Others:
    """The `count` largest weights of all block matrices together, without `avoid`."""
    return Ranking(checkpoint, avoid, count).of_all(count)


def largest_per_tensor(checkpoint: Checkpoint, share: float, avoid: Collection[Address]) -> Others:
    """The largest `int(size * share)` weights of each block matrix, without `avoid`: the authors' code's way."""
    return Ranking(checkpoint, avoid, 0, share).of_each(share)


class Ranking:
    """The largest weights of the block matrices without `avoid`, for several rules at once: each matrix is read once.

    For `of_all` of up to `count` weights, and for `of_each` of up to `share` of a matrix.
    """

    def __init__(self, checkpoint: Checkpoint, avoid: Collection[Address], count: int, share: float = 0.0):
        self._sizes = {name: math.prod(checkpoint.tensors[name].shape) for name in block_matrices(checkpoint)}
        self._largest: dict[str, tuple[Tensor, Tensor]] = {}
        self._shapes = {name: tuple(checkpoint.tensors[name].shape) for name in self._sizes}
        bar = torch.tensor([])
        for name, size in self._sizes.items():
            wanted, least = max(count, int(size * share)), int(size * share)
            values, flat = _largest(checkpoint, name, wanted, avoid)
            if len(bar) == count:  # no more of them than can be among the largest of all
                enough = max(least, int((values > bar[-1]).sum())) if count else least
                values, flat = values[:enough], flat[:enough]
            bar = torch.cat([bar, values]).sort(descending=True).values[:count]
            self._largest[name] = values, flat

    def of_all(self, count: int) -> Others:
        """The `count` largest of all matrices together."""
        names = list(self._largest)
        values = torch.cat([torch.tensor([]), *(values for values, _ in self._largest.values())])
        which = torch.cat(
            [torch.tensor([], dtype=torch.long)]
            + [torch.full((len(v),), n) for n, (v, _) in enumerate(self._largest.values())]
        )
        flat = torch.cat([torch.tensor([], dtype=torch.long), *(flat for _, flat in self._largest.values())])
        order = values.argsort(descending=True, stable=True)[:count]
        addresses = [self._address(names[which[n]], int(flat[n])) for n in order.tolist()]
        rule = f"the {len(addresses):,} largest of all block matrices together"
        return Others(rule, tuple(addresses), float(values[order[-1]]) if len(order) else None)

    def of_each(self, share: float) -> Others:
        """The largest `int(size * share)` of each matrix."""
        kept: list[tuple[float, Address]] = []
        for name, (values, flat) in self._largest.items():
            count = int(self._sizes[name] * share)
            kept += [
                (value, self._address(name, place))
                for value, place in zip(values[:count].tolist(), flat[:count].tolist(), strict=True)
            ]
        rule = f"the largest {share:.3g} of each block matrix, {len(kept):,} in all"
        return Others(rule, tuple(address for _, address in kept), min((v for v, _ in kept), default=None))

    def _address(self, name: str, flat: int) -> Address:
        place = torch.unravel_index(torch.tensor(flat), self._shapes[name])
        return Address(name, tuple(int(each) for each in place))


def block_matrices(checkpoint: Checkpoint) -> list[str]:
    """The matrices of the numbered blocks: no embedding, no head, no vectors. The authors' choice as well."""
    return [
        name
        for name, info in checkpoint.tensors.items()
        if len(info.shape) >= 2
        and info.torch_dtype.is_floating_point
        and any(part.isdigit() for part in name.split("."))
    ]


def _largest(
    checkpoint: Checkpoint, name: str, count: int, avoid: Collection[Address]
) -> tuple[Tensor, Tensor]:
    """Magnitudes and flat indices of the `count` largest weights of one tensor, which is let go after."""
    tensor = checkpoint.read(name)
    skip = [_flat(address, tuple(tensor.shape)) for address in avoid if address.tensor == name]
    values, flat = tensor.abs().flatten().float().topk(min(count + len(skip), tensor.numel()))
    checkpoint.release([name])
    left = ~torch.isin(flat, torch.tensor(skip, dtype=torch.long))
    return values[left][:count], flat[left][:count]


def _flat(address: Address, shape: tuple[int, ...]) -> int:
    """Where a weight stands in its tensor laid out flat."""
    at = 0
    for index, size in zip(address.index, shape, strict=True):
        at = at * size + index
    return at
