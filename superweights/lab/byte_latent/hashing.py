"""Where the n-grams before each byte stand in the hash table.

`h = sum_k t_k p^k` with p = 1000000007 and t_0 the oldest id, zeros before the start, signed 64-bit wrap-around, and
the non-negative remainder (arXiv 2412.09871, equations 4 to 6; the order and the padding are the released code's).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PRIME = 1_000_000_007


def ngram_places(ids: Tensor, sizes: Sequence[int], table: int) -> Tensor:
    """The place `[sizes, B, N]`, in a table of `table` rows, of the n-gram that ends at each byte of `ids [B, N]`."""
    ids = ids.long()
    longest = max(sizes)
    powers = [_wrapped(PRIME**k) for k in range(longest)]
    padded = torch.nn.functional.pad(ids, (longest - 1, 0))
    n, found = ids.shape[1], []
    for size in sizes:
        first = longest - size
        h = sum(padded[:, first + k : first + k + n] * powers[k] for k in range(size))
        found.append(torch.as_tensor(h).remainder(table))
    return torch.stack(found)


def _wrapped(number: int) -> int:
    """`number` as a signed 64-bit integer holds it."""
    return (number + 2**63) % 2**64 - 2**63
