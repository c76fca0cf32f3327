"""Where a training stands, kept on disk: a hash and torch's own form of it, written whole and read only as written."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from superweights.artefacts.disk import explained
from superweights.artefacts.file import new_file
from superweights.errors import SuperweightsError

# Bytes of the hash, which stands first.
_DIGEST = 32


def keep_state(file: Path, held: dict[str, Any]) -> None:
    """Write `held` (tensors and plain values) to `file`, in the place of what is there, and its folder where needed.

    Raises `SuperweightsError` for a full disk.
    """
    whole = io.BytesIO()
    torch.save(held, whole)
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with new_file(file, replace=True) as partial:
        partial.write_bytes(hashlib.sha256(whole.getbuffer()).digest() + whole.getbuffer())


def kept_state(file: Path) -> dict[str, Any]:
    """What `keep_state` has written. Raises `SuperweightsError` where one byte of it is another: weights and moments
    are numbers, of which nothing else could tell."""
    data = file.read_bytes()
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        raise SuperweightsError(
            f"{file} is not what was written.",
            hint=f"remove it, and the same command begins again: rm -r '{file.parent}'.",
        )
    return torch.load(io.BytesIO(data[_DIGEST:]), weights_only=True)
