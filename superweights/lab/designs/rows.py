"""Bytes to learn from: the sources of this Python's own library, in rows, a twentieth held out."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from superweights.errors import SuperweightsError

_ABROAD = ("site-packages", "dist-packages", "__pycache__", "lib2to3", "test", "tests", "idlelib")
_PIECE, _EVERY = 16_384, 20


@dataclass(frozen=True, eq=False)
class ByteRows:
    """Bytes to train on `[n]` and held-out ones `[m]`, uint8. Every twentieth piece of 16 kB is held out."""

    training: np.ndarray
    """To train on."""
    held_out: np.ndarray
    """To judge by."""

    def batch(self, seed: int, step: int, rows: int, length: int) -> Tensor:
        """`[rows, length]` bytes from random places, the same for the same seed and step whoever asks."""
        places = np.random.default_rng((seed, step)).integers(0, len(self.training) - length, rows)
        return torch.from_numpy(np.stack([self.training[p : p + length] for p in places]).astype(np.int64))

    def validation(self, rows: int, length: int) -> Tensor:
        """`[rows, length]` held-out bytes, evenly spread."""
        places = np.linspace(0, len(self.held_out) - length, rows).astype(int)
        return torch.from_numpy(np.stack([self.held_out[p : p + length] for p in places]).astype(np.int64))


def library_rows(megabytes: float = 4.0, file: Path | None = None) -> ByteRows:
    """The bytes of CPython's library (or of `file`), at most so many megabytes, cut and held out in pieces.

    Raises `SuperweightsError` for fewer bytes than two pieces of each part.
    """
    limit, found, size = int(megabytes * 1e6), [], 0
    for path in [file] if file else _sources():
        found.append(path.read_bytes())
        size += len(found[-1])
        if size >= limit:
            break
    data = np.frombuffer(b"".join(found)[:limit], dtype=np.uint8)
    pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
    if len(pieces) < 2 * _EVERY:
        raise SuperweightsError(
            f"{len(data):,} bytes are too few to learn from.",
            hint=f"give at least {2 * _EVERY * _PIECE:,} bytes.",
        )
    held = [piece for n, piece in enumerate(pieces) if n % _EVERY == _EVERY - 1]
    rest = [piece for n, piece in enumerate(pieces) if n % _EVERY != _EVERY - 1]
    return ByteRows(np.concatenate(rest), np.concatenate(held))


def _sources() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(p for p in root.rglob("*.py") if not set(p.relative_to(root).parts) & set(_ABROAD))
