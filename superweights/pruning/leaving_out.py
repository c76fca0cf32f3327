"""A model without some of its sub-layers for the length of a `with`: nothing is written, nothing is faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from superweights.pruning.dropped import Dropped
from superweights.taps import Site, Tap, sites_of, tapping


@contextmanager
def without(model: nn.Module, dropped: Dropped) -> Iterator[None]:
    """`model` with nothing added to its residual stream by what is `dropped`.

    Same logits as the checkpoint that `prune` writes. Raises `SuperweightsError` for layers that do not exist, and
    where the writes of a sub-layer cannot be told in this model.
    """
    dropped.check(len(sites_of(model).blocks))
    taps: dict[Site, Tap] = {Site("attn_write", layer): torch.zeros_like for layer in dropped.attention}
    taps |= {Site("mlp_write", layer): torch.zeros_like for layer in dropped.mlp}
    for layer in dropped.blocks:
        by = _Bypass()
        taps |= {Site("block_in", layer): by.enter, Site("block_out", layer): by.leave}
    with tapping(model, taps):
        yield


class _Bypass:
    """A block's output is the stream that entered it."""

    def __init__(self) -> None:
        self._stream: Tensor | None = None

    def enter(self, stream: Tensor) -> None:
        self._stream = stream.clone()

    def leave(self, stream: Tensor) -> Tensor | None:
        return self._stream
