"""Where a training stands, kept on disk: a hash and torch's own form of it, written whole and read only as written.

It stands beside the expert that it makes, under a name that tells source, task and manner: the same training goes on
from it, another one never sees it, and the first that is done clears all.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from superweights.adaptation.expert import TOLD
from superweights.artefacts.disk import explained, remove
from superweights.artefacts.file import new_file
from superweights.artefacts.manifest import digest_of
from superweights.artefacts.place import check_new
from superweights.errors import SuperweightsError

# Bytes of the hash, which stands first.
_DIGEST = 32


def begin_expert(to: Path) -> None:
    """Raise `SuperweightsError` where no expert can come to `to`, before the work; what a training that was done has
    left there, because the program ended before it was cleared, is cleared."""
    if (to / TOLD).exists():
        _clear(to)
    check_new(to, "folder")


@contextmanager
def unfinished(to: Path, *parts: str) -> Iterator[Path]:
    """Where the training of the expert `to` stands until the body is through: a file of its own for all `parts`, which
    tell source, task and manner. Then every training of that expert is cleared."""
    yield to.with_name(f".{to.name}.{digest_of(*parts)[:16]}.training") / "state.pt"
    _clear(to)


def _clear(to: Path) -> None:
    """Remove where the trainings of the expert `to` stood."""
    name = re.compile(rf"\.{re.escape(to.name)}\.[0-9a-f]{{16}}\.training")
    for beside in [each for each in to.parent.iterdir() if name.fullmatch(each.name)]:
        remove(beside)


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
