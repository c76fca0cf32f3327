"""Parameter sinks: which slots the tokens use, and how near the scores come to what they can be at most.

Slots have no order, so "the first slot" means nothing. A slot is a sink when it takes far more than its share.
`|S| <= tau` whatever the weights are, so a spike is read against tau, else TokenFormer has small ones by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superweights.lab.tokenformer.pattention import Pattention

# A slot with less than this share of an even slot's mass is called dead.
_DEAD = 1e-3


@dataclass(frozen=True)
class SlotUsage:
    """How one Pattention uses its slots: `u_k = E S_k² / sum_k E S_k²` over the tokens that were read.

    `path`: the Pattention in the model. `slots`: how many. `largest`: the largest `u_k` times the number of slots (1:
    all alike). `entropy`: of `u` over log n, 1 when all are alike. `dead`: the share of slots with under a thousandth
    of an even share. `spike`: the largest |S|. `bound`: tau, which it cannot pass; `of_bound` their ratio in [0, 1].
    `by_generation`: the mass of each generation of slots, oldest first.
    """

    path: str
    slots: int
    largest: float
    entropy: float
    dead: float
    spike: float
    bound: float
    by_generation: tuple[float, ...]

    @property
    def of_bound(self) -> float:
        """The spike as a share of what is possible: 1 means that one slot took everything."""
        return self.spike / self.bound


@dataclass(eq=False)
class _Counter:
    """What one Pattention has shown so far: the sum of squared scores of each slot, and the largest."""

    layer: Pattention
    squares: Tensor | None = None
    spike: float = 0.0

    def see(self, module: nn.Module, args: tuple) -> None:
        scores = args[0].detach().flatten(0, -2)
        seen = scores.double().square().sum(0)
        self.squares = seen if self.squares is None else self.squares + seen
        self.spike = max(self.spike, float(scores.abs().max()))

    def usage(self, path: str) -> SlotUsage:
        assert self.squares is not None, "the model ran"
        share, n = self.squares / self.squares.sum().clamp_min(1e-300), len(self.squares)
        entropy = -float(torch.special.xlogy(share, share).sum()) / math.log(n) if n > 1 else 1.0
        generations = tuple(float(part.sum()) for part in share.split(self.layer.generations))
        dead = float((share * n < _DEAD).double().mean())
        return SlotUsage(
            path, n, float(share.max()) * n, entropy, dead, self.spike, self.layer.tau, generations
        )


@torch.no_grad()
def slot_usage(model: nn.Module, ids: Tensor) -> list[SlotUsage]:
    """The usage of every Pattention of `model` on these tokens `[B, T]`, in the model's order."""
    counters = {path: _Counter(m) for path, m in model.named_modules() if isinstance(m, Pattention)}
    with _watching(counters):
        model(input_ids=ids)
    return [counter.usage(path) for path, counter in counters.items()]


@contextmanager
def _watching(counters: dict[str, _Counter]) -> Iterator[None]:
    handles = [c.layer.value.register_forward_pre_hook(c.see) for c in counters.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
