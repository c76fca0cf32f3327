"""The other large weights, to prune in place of the super weights: "the other 7,000 largest" and its readings."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch

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
    kept: list[tuple[float, Address]] = []
    for name in block_matrices(checkpoint):
        bar = kept[-1][0] if len(kept) == count else -1.0
        kept += _largest(checkpoint, name, count, avoid, bar)
        kept = sorted(kept, key=lambda found: -found[0])[:count]
    rule = f"the {len(kept):,} largest of all block matrices together"
    return Others(rule, tuple(address for _, address in kept), kept[-1][0] if kept else None)


def largest_per_tensor(checkpoint: Checkpoint, share: float, avoid: Collection[Address]) -> Others:
    """The largest `int(size * share)` weights of each block matrix, without `avoid`: the authors' code's way."""
    kept: list[tuple[float, Address]] = []
    for name in block_matrices(checkpoint):
        kept += _largest(checkpoint, name, int(math.prod(checkpoint.tensors[name].shape) * share), avoid)
    rule = f"the largest {share:.3g} of each block matrix, {len(kept):,} in all"
    return Others(rule, tuple(address for _, address in kept), min((v for v, _ in kept), default=None))


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
    checkpoint: Checkpoint, name: str, count: int, avoid: Collection[Address], bar: float = -1.0
) -> list[tuple[float, Address]]:
    """The `count` largest weights of one tensor above `bar`, with their magnitudes; the tensor is let go after."""
    if not count:
        return []
    tensor = checkpoint.read(name)
    skip = sum(address.tensor == name for address in avoid)
    values, flat = tensor.abs().flatten().float().topk(min(count + skip, tensor.numel()))
    places = torch.stack(torch.unravel_index(flat[values > bar], tuple(tensor.shape)), 1).tolist()
    checkpoint.release([name])
    found = [(v, Address(name, tuple(place))) for v, place in zip(values.tolist(), places, strict=False)]
    return [each for each in found if each[1] not in avoid][:count]
