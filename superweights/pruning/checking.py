"""A written checkpoint run beside the original without the same sub-layers: plain, and with a key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.taps.trace import CANNOT_RUN

# How far two computations of the same logits may be apart, as a share of the largest: sums in another order.
_NEAR = 1e-4
_ROWS, _TOKENS, _FIRST = 2, 24, 17


@dataclass(frozen=True, eq=False)
class ProbeLogits:
    """Logits `[rows, tokens, V]` of one text, read at once and in two pieces (None where that cannot be done)."""

    whole: Tensor
    """Read at once."""
    pieces: Tensor | None
    """Read in two pieces."""


def probe(vocabulary: int) -> Int[Tensor, "2 24"]:
    """Random tokens `[2, 24]`, always the same."""
    return torch.randint(vocabulary, (_ROWS, _TOKENS), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def read(model: nn.Module, ids: Int[Tensor, "rows tokens"]) -> ProbeLogits:
    """The logits of `model` for `ids`, with and without cache."""
    whole = model(input_ids=ids, use_cache=False).logits
    try:
        first = model(input_ids=ids[:, :_FIRST], use_cache=True)
        then = model(input_ids=ids[:, _FIRST:], past_key_values=first.past_key_values, use_cache=True)
        pieces = torch.cat([first.logits, then.logits], 1)
    except (*CANNOT_RUN, AssertionError):
        return ProbeLogits(whole, None)
    return ProbeLogits(whole, pieces)


def check(original: ProbeLogits, written: ProbeLogits) -> float:
    """The largest difference of the logits, as a share of the largest.

    Raises `SuperweightsError` where the written model predicts something else than the original without the same
    sub-layers, or does so once it uses its cache.
    """
    apart = _apart(original.whole, written.whole)
    if not apart <= _NEAR:
        raise SuperweightsError(
            f"Written without these layers, the model predicts something else than it does when they are left out "
            f"(logits differ by {apart:.2g} of the largest).",
            hint="its blocks depend on their number; drop attentions or MLPs instead of blocks, or another layer.",
        )
    cached_before = original.pieces is not None and _apart(original.whole, original.pieces) <= _NEAR
    if cached_before and (written.pieces is None or not _apart(written.whole, written.pieces) <= _NEAR):
        raise SuperweightsError(
            "Without these layers the model no longer reads its key-value cache rightly.",
            hint="drop MLPs, or other attentions.",
        )
    return apart


def _apart(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return ((one.float() - other.float()).abs().max() / one.float().abs().max().clamp_min(1e-30)).item()
