"""One file that is written piece by piece, goes on after its last whole piece, and appears when it is complete."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

from superweights.artefacts.disk import explained, remove, settle_folder
from superweights.artefacts.folder import claimed
from superweights.artefacts.manifest import Work
from superweights.artefacts.place import (
    JOURNAL,
    check_new,
    clear_dead,
    is_worth_keeping,
    parents_made,
    partial_of,
    refuse_company,
)
from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import Between, shaped
from superweights.errors import SuperweightsError

_BODY = "body"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Piece:
    """A piece that is whole: its name, where it ends in the file, and the SHA-256 of its bytes."""

    name: str
    end: Annotated[int, Between(0, 2**62)]
    sha256: str


class Growing:
    """A file in the making. Pieces are added in one order, which is the same in every run of the same work."""

    def __init__(self, folder: Path, work: Work):
        self._folder, self._told = folder, json.dumps([work.kind, work.source, work.plan])
        for entry in list(folder.iterdir()):
            if entry.name not in (_BODY, JOURNAL) or entry.is_symlink() or entry.stat().st_nlink > 1:
                remove(entry)
        self._pieces = self._whole()
        self._body: IO[bytes] = open(folder / _BODY, "ab")  # noqa: SIM115 - closed by `close`
        self._body.truncate(self._pieces[-1].end if self._pieces else 0)
        new = folder / f"{JOURNAL}.new"
        new.write_text(
            "".join(f"{line}\n" for line in (self._told, *map(_line, self._pieces))), encoding="utf-8"
        )
        os.replace(new, folder / JOURNAL)
        self._journal: IO[str] = open(folder / JOURNAL, "a", encoding="utf-8")  # noqa: SIM115 - see above
        self._next = 0

    @property
    def scratch(self) -> Path:
        """A path for what is needed on the way; whatever stands there goes with the work."""
        return self._folder / "scratch"

    def has(self, name: str) -> bool:
        """Whether the next piece is there already; then it is passed over."""
        if self._next < len(self._pieces) and self._pieces[self._next].name == name:
            self._next += 1
            return True
        return False

    def add(self, name: str, *parts: bytes | memoryview) -> None:
        """Write the next piece, its parts one after the other."""
        if self._next < len(self._pieces):
            raise SuperweightsError(
                f"{self._folder} holds the pieces of other work.", hint=f"remove it: rm -r '{self._folder}'."
            )
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
            self._body.write(part)
        self._body.flush()
        piece = _Piece(name, self._body.tell(), digest.hexdigest())
        self._journal.write(f"{_line(piece)}\n")
        self._journal.flush()
        self._pieces.append(piece)
        self._next += 1

    def complete(self) -> Path:
        """The whole file, on the disk."""
        os.fsync(self._body.fileno())
        self.close()
        return self._folder / _BODY

    def close(self) -> None:
        """Close the files."""
        self._body.close()
        self._journal.close()

    def _whole(self) -> list[_Piece]:
        """The pieces of a stopped run of the same work whose bytes are as its journal says, up to the first other."""
        pieces: list[_Piece] = []
        try:
            first, *lines = (self._folder / JOURNAL).read_text(encoding="utf-8").splitlines()
            with open(self._folder / _BODY, "rb") as body:
                for line in lines if first == self._told else ():
                    piece = shaped(_Piece, parse_json(line, JOURNAL), JOURNAL, "-")
                    if _digest(body, piece.end - body.tell()) != piece.sha256:
                        break
                    pieces.append(piece)
        except (OSError, ValueError, SuperweightsError):
            pass  # a line that was cut off: what stands before it is whole
        return pieces


def _line(piece: _Piece) -> str:
    return json.dumps({"name": piece.name, "end": piece.end, "sha256": piece.sha256})


def _digest(file: IO[bytes], length: int) -> str | None:
    """The SHA-256 of the next `length` bytes; None where there are fewer."""
    digest = hashlib.sha256()
    while length > 0:
        chunk = file.read(min(length, _CHUNK))
        if not chunk:
            return None
        digest.update(chunk)
        length -= len(chunk)
    return digest.hexdigest() if length == 0 else None


@contextmanager
def growing_file(to: Path, work: Work) -> Iterator[Growing]:
    """The file `to` in the making; it appears when the body has ended, whole and on the disk.

    A stopped body leaves its whole pieces, and the same `work` goes on after them. Raises as `new_folder` does.
    """
    to = Path(to)
    check_new(to, "file")
    with explained(to), parents_made(to):
        clear_dead(to)
        partial = partial_of(to, work.mark)
        handle = claimed(partial, to)
        growing: Growing | None = None
        try:
            refuse_company(to, partial)
            growing = Growing(partial, work)
            yield growing
            whole = growing.complete()
            check_new(to, "file")
            os.replace(whole, to)
            settle_folder(to.parent)
            remove(partial)
        except BaseException:
            if growing is not None:
                growing.close()
            if not is_worth_keeping(partial):
                remove(partial)
            raise
        finally:
            os.close(handle)
        clear_dead(to, all_of_them=True)
