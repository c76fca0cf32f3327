"""Codes packed into 32-bit words, one after the other without gaps, the first in the lowest bits."""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 2**22  # codes unpacked at a time: each takes eight bytes meanwhile


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """The codes in int32 `words [rows, n]`, as uint8 `[rows, n * 32 // bits]`.

    A code may lie across two words, as 3-bit ones do in GPTQ and all that do not divide 32 in compressed-tensors.
    """
    count = words.shape[1] * 32 // bits
    first = torch.arange(count) * bits
    word, offset = first // 32, first % 32
    across = offset + bits > 32
    codes = torch.empty(len(words), count, dtype=torch.uint8)
    step = max(1, _AT_ONCE // max(count, 1))
    for start in range(0, len(words), step):
        wide = words[start : start + step].long() & 0xFFFFFFFF
        found = wide[:, word] >> offset
        if across.any():
            found[:, across] |= wide[:, word[across] + 1] << (32 - offset[across])
        codes[start : start + step] = found & (2**bits - 1)
    return codes
