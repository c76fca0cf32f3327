"""Weights that should not matter, to be removed for comparison: the largest others, and random ones."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.editing import zero
from superweights.sweeps.plans import COUNTS, Point

# Weights that are looked at at a time.
_CHUNK = 1 << 22
# A tensor of a numbered block, as model.layers.3.mlp.down_proj.weight.
_IN_A_BLOCK = re.compile(r"(^|\.)\d+\.")


def plan_controls(
    checkpoint: Checkpoint, addresses: Sequence[Address], counts: Sequence[int] = COUNTS, seed: int = 0
) -> list[Point]:
    """The k largest weights other than `addresses` removed, of the whole model and of each tensor that holds
    one of them; and k random ones of that tensor, for each k of `counts` that there are weights for.

    The whole model is the matrices of its blocks: embeddings and the head, whose rows are words, are left
    out. Source: arXiv 2411.07191, Table 1, "Prune Non-SW (7,000)"; the paper does not say where those stand.
    """
    most = max(counts)
    tensors = list(dict.fromkeys(address.tensor for address in addresses))
    everywhere = [name for name, info in checkpoint.tensors.items() if _is_block_matrix(name, info.shape)]
    chosen = {"largest others of the model": largest_others(checkpoint, everywhere, most, addresses)}
    for tensor in tensors:
        chosen[f"largest others of {tensor}"] = largest_others(checkpoint, [tensor], most, addresses)
        chosen[f"random of {tensor}"] = random_others(checkpoint, tensor, most, addresses, seed)
    return [
        Point("controls", series, count, zero(held[:count]))
        for series, held in chosen.items()
        for count in sorted(set(counts))
        if count <= len(held)
    ]


def largest_others(
    checkpoint: Checkpoint, tensors: Iterable[str], count: int, avoid: Collection[Address]
) -> list[Address]:
    """The `count` weights of largest magnitude in `tensors` but for `avoid`, the largest first.

    Of equal ones those come first that are stored first. Reads the tensors once, a few rows at a time.
    """
    wanted = count + len(avoid)
    found: list[tuple[float, Address]] = []
    for tensor in tensors:
        values, places = _largest(checkpoint, tensor, wanted)
        shape = checkpoint.tensors[tensor].shape
        indices = zip(*(axis.tolist() for axis in torch.unravel_index(places, tuple(shape))), strict=True)
        found += [(v, Address(tensor, i)) for v, i in zip(values.tolist(), indices, strict=True)]
        found = sorted(found, key=lambda held: -held[0])[:wanted]
    avoided = set(avoid)
    return [address for _, address in found if address not in avoided][:count]


def random_others(
    checkpoint: Checkpoint, tensor: str, count: int, avoid: Collection[Address], seed: int
) -> list[Address]:
    """`count` different weights of `tensor` but for `avoid`, drawn with `seed`; fewer where it has fewer."""
    shape = tuple(checkpoint.tensors[tensor].shape)
    size = math.prod(shape)
    avoided = set(avoid)
    drawn = random.Random(f"{seed} {tensor}").sample(range(size), min(size, count + len(avoided)))
    places = torch.unravel_index(torch.tensor(drawn), shape)
    chosen = [Address(tensor, index) for index in zip(*(axis.tolist() for axis in places), strict=True)]
    return [address for address in chosen if address not in avoided][:count]


def _largest(checkpoint: Checkpoint, tensor: str, count: int) -> tuple[Tensor, Tensor]:
    """Magnitudes and flat places of the `count` largest, ties in the order of storage."""
    shape = checkpoint.tensors[tensor].shape
    width = math.prod(shape[1:])
    step = max(1, _CHUNK // width)
    values, places = torch.empty(0), torch.empty(0, dtype=torch.long)
    for start in range(0, shape[0], step):
        rows = checkpoint.read_rows(tensor, start, min(start + step, shape[0]))
        flat = rows.reshape(-1).float().abs()
        least = flat.topk(min(count, len(flat))).values[-1]
        here = (flat >= least).nonzero()[:, 0]
        values, places = torch.cat([values, flat[here]]), torch.cat([places, here + start * width])
        order = values.sort(descending=True, stable=True).indices[:count]
        values, places = values[order], places[order]
    checkpoint.release([tensor])
    return values, places


def _is_block_matrix(name: str, shape: Sequence[int]) -> bool:
    return len(shape) >= 2 and _IN_A_BLOCK.search(name) is not None
