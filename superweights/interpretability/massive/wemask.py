"""The mitigation that weakens the sink's state: its largest normed channels set to zero, after the emergence.

Source: Shi et al., arXiv 2605.08504 ("WeMask"). Their released code takes position 0 of whatever is being
computed, so with a key-value cache it hits every newly generated token; here the token is told by its
absolute position, and generation with a cache gives the same logits as without.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.interpretability.body import Body
from superweights.taps import Site


@contextmanager
def masked_sink(
    model: nn.Module,
    after: int,
    rate: float,
    *,
    position: int = 0,
    draw: int | None = None,
) -> Iterator[None]:
    """`model`, whose attention after layer `after` reads the token at `position` without its largest channels.

    Of the normed state that attention reads, the `int(rate * d)` channels that are largest in magnitude are
    zero, for the token whose absolute position is `position` and no other. With `draw` as many random
    channels are zero instead: the control of that seed.

    Raises `SuperweightsError` where no norm stands before attention, or the rate masks nothing.
    """
    body = Body.of(model)
    layers = [
        layer for layer in range(after + 1, body.layers) if Site("attn_norm_in", layer) in body.sites.places
    ]
    if not layers:
        raise SuperweightsError(
            f"No layer after {after} has a norm before its attention, so there is nothing to mask.",
            hint="choose an earlier layer; a model without pre-norms cannot be masked.",
        )
    with ExitStack() as stack:
        for layer in layers:
            mask = _Mask(rate, position, None if draw is None else random.Random(f"{draw} {layer}"))
            block = model.get_submodule(body.sites.blocks[layer])
            norm = body.module(Site("attn_norm_in", layer))
            stack.enter_context(block.register_forward_pre_hook(mask.begin, with_kwargs=True))
            stack.enter_context(norm.register_forward_hook(mask.after_norm))
        yield


class _Mask:
    """The mask of one layer."""

    def __init__(self, rate: float, position: int, draw: random.Random | None):
        self._rate, self._position, self._draw = rate, position, draw
        self._where: Tensor | None = None

    def begin(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """The block begins: which of its tokens is the one."""
        positions = kwargs.get("position_ids")
        cache = kwargs.get("past_key_values")
        if positions is None and cache is not None and cache.get_seq_length() > 0:
            raise SuperweightsError(
                "The model does not tell its blocks the tokens' positions, so with a cache the sink is unknown.",
                hint="run it without a key-value cache (use_cache=False).",
            )
        self._where = None if positions is None else positions == self._position

    def after_norm(self, norm: nn.Module, args: tuple, normed: Tensor) -> Tensor | None:
        """The normed state with the token's channels at zero; untouched where the token is not among these."""
        where = self._where
        if where is None:
            where = torch.arange(normed.shape[1], device=normed.device)[None] == self._position
        if not bool(where.any()):
            return None
        width = normed.shape[-1]
        count = int(self._rate * width)
        if not 0 < count <= width:
            raise SuperweightsError(
                f"A rate of {self._rate:g} masks {count} of {width} channels.",
                hint=f"give a rate from {1 / width:.2g} to 1.",
            )
        if self._draw is None:
            chosen = normed.abs().topk(count, -1).indices
        else:
            chosen = torch.tensor(self._draw.sample(range(width), count), device=normed.device)
            chosen = chosen.expand(*normed.shape[:-1], count)
        hit = torch.zeros_like(normed, dtype=torch.bool).scatter_(-1, chosen, True)
        return normed.masked_fill(hit & where.to(normed.device)[..., None], 0)
