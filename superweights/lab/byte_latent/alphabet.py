"""Bytes as ids: `id = byte + 4`, four ids in front for the beginning of a text and the like; 260 in all.

Source: the released tokenizer's numbers (also transformers' `BltConfig`). Decoding gives bytes: what a model generates
need not be valid UTF-8, and text made of it may lose some.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

OFFSET, VOCABULARY = 4, 260
BOE, BOS, EOS = 0, 1, 2


def encode(text: str | bytes, *, bos: bool = False) -> Tensor:
    """The ids `[N]` of a text (as UTF-8) or of bytes as they are, valid UTF-8 or not."""
    raw = text.encode("utf-8") if isinstance(text, str) else bytes(text)
    ids = (
        torch.frombuffer(bytearray(raw), dtype=torch.uint8).long() + OFFSET if raw else torch.empty(0).long()
    )
    return torch.cat([torch.tensor([BOS]), ids]) if bos else ids


def decode(ids: Tensor | Iterable[int]) -> bytes:
    """The bytes of `ids`; the four special ids stand for none."""
    numbers = ids.tolist() if isinstance(ids, Tensor) else ids
    return bytes(i - OFFSET for i in numbers if OFFSET <= i < VOCABULARY)
