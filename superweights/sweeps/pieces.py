"""The tokens of a batch in pieces small enough for their logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Logits in memory at a time for one version of the model, in bytes of float32.
_PIECE_BYTES = 1 << 24


@dataclass(frozen=True)
class Piece:
    """Some tokens of a batch `[rows, length]`: whole rows, or positions of one row.

    `positions` are those that predict, 0 to length - 2; `flat` is the same piece of all predictions in order.
    """

    rows: slice
    positions: slice
    flat: slice


def pieces_of(rows: int, length: int, vocabulary: int) -> Iterator[Piece]:
    """Pieces of a batch that together predict every token but each row's first."""
    most = max(1, _PIECE_BYTES // (4 * vocabulary))
    each = length - 1
    if most >= each:
        step = most // each
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield Piece(slice(start, stop), slice(0, each), slice(start * each, stop * each))
        return
    for row in range(rows):
        for start in range(0, each, most):
            stop = min(start + most, each)
            flat = slice(row * each + start, row * each + stop)
            yield Piece(slice(row, row + 1), slice(start, stop), flat)
