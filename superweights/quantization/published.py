"""The published rounding, operation by operation, in the weight's own dtype; for comparison, not for use.

Source: arXiv 2411.07191, section 4.2, equation 2, and the behaviour of the authors' code, rebuilt from its
description. Where text and code differ the code counts: the denominator is 2^N - 1, and not the printed
2^(N-1) - 1, which belongs to symmetric grids. We differ in two places: the caller's tensor is never written
to, and a constant block, where the published arithmetic divides by zero, is refused.
"""

from __future__ import annotations

import torch

from superweights.errors import SuperweightsError
from superweights.quantization.clipping import limits, share_limit
from superweights.quantization.cutting import cut
from superweights.quantization.fit import Fitted
from superweights.quantization.grids import codebook
from superweights.quantization.scheme import INTEGERS, Blocks, Clip, Scheme


def published_blocks(shape: torch.Size, scheme: Scheme) -> Blocks:
    """The blocks that the published code takes: one for the whole tensor where runs do not divide it."""
    if scheme.blocks.kind == "run" and shape.numel() % scheme.blocks.size[0]:
        return Blocks("tensor", ())
    return scheme.blocks


def encode_as_published(weight: torch.Tensor, scheme: Scheme, out_axis: int) -> tuple[torch.Tensor, Fitted]:
    """Codes `[blocks, elements]`, and the published `s` and minimum of each block, in the weight's dtype."""
    blocks = published_blocks(weight.shape, scheme)
    w = _clipped(cut(weight, blocks, out_axis), scheme, fell_back=blocks != scheme.blocks)
    low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    if (low == high).any():
        raise SuperweightsError(
            "A block of this tensor is constant, and the published arithmetic divides by its range, 0.",
            hint="leave out paper_compat: constant blocks are kept as they are there.",
        )
    if scheme.grid in INTEGERS:
        s = (2 ** INTEGERS[scheme.grid] - (0.01 if scheme.scale_shift else 1)) / (high - low)
        codes = ((w - low) * s - (0.49 if scheme.scale_shift else 0)).round()
        return codes.to(torch.int16 if scheme.grid == "int8" else torch.uint8), Fitted(s, offsets=low)
    levels = (w - low) / (high - low) * 2 - 1
    return codebook(scheme.grid).nearest(levels.float()), Fitted(high - low, offsets=low)


def decode_as_published(codes: torch.Tensor, fitted: Fitted, scheme: Scheme) -> torch.Tensor:
    """The values of `codes`, in the dtype that the arithmetic was done in."""
    assert fitted.offsets is not None
    dtype = fitted.scales.dtype
    if scheme.grid in INTEGERS:
        shift = 0.49 if scheme.scale_shift else 0
        return (codes.to(dtype) + shift) / fitted.scales + fitted.offsets
    levels = codebook(scheme.grid).values(codes).to(dtype)
    return (levels + 1) / 2 * fitted.scales + fitted.offsets


def _clipped(blocks: torch.Tensor, scheme: Scheme, *, fell_back: bool) -> torch.Tensor:
    clip = scheme.clip
    if fell_back and clip.rule == "block_share":
        clip = Clip("tensor_share", clip.amount)  # the published code drops its "+ 1" with the blocks
    if clip.rule == "none":
        return blocks
    tensor_limit = None
    if clip.rule == "tensor_share":
        tensor_limit = share_limit(blocks, None, clip.by)
    found = limits(blocks.float(), None, clip, tensor_limit)
    assert found is not None
    return blocks.clamp(found[0].to(blocks.dtype), found[1].to(blocks.dtype))
