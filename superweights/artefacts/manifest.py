"""What a folder of ours says of itself: what it was made from and how, and the size and hash of every file in it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from superweights.artefacts.place import MANIFEST
from superweights.artefacts.reading import read_noun
from superweights.artefacts.shape import Between
from superweights.errors import SuperweightsError

# Files up to this size are hashed whenever a folder is opened; of larger ones the beginning is, where headers stand.
HEAD_BYTES = 1 << 20
_HINT = f"write the folder again; if you changed it yourself and mean it, remove its {MANIFEST}."


@dataclass(frozen=True)
class Work:
    """What is made of what: only the very same work may go on from what a stopped run has left.

    `kind` names the form, `source` is the fingerprint of what it is made from, `plan` a digest of all else that the
    result depends on. `state` tells sources with one fingerprint apart while the work lasts (`state_of`); it does not
    stand in the manifest, which is the same for the same result.
    """

    kind: str
    source: str
    plan: str
    state: str = ""

    @property
    def mark(self) -> str:
        """Sixteen hexadecimal digits that tell it from other work."""
        return digest_of(self.kind, self.source, self.plan, self.state)[:16]


@dataclass(frozen=True)
class Kept:
    """A file: its size, the SHA-256 of all of it, and of its first MiB (one hash where that is all)."""

    bytes: Annotated[int, Between(0, 2**62)]
    """Its size."""
    sha256: str
    """Of all of it, in hexadecimal."""
    head: str
    """The same of the first MiB."""


@dataclass(frozen=True)
class Manifest:
    """The work, and every file of the folder by its name in it but the manifest itself."""

    kind: str
    """As in `Work`."""
    source: str
    """As in `Work`."""
    plan: str
    """As in `Work`."""
    files: Mapping[str, Kept] = field(default_factory=dict)
    """The files that are whole."""
    schema_version: Literal[1] = 1
    """The version of this layout."""

    def to_json(self) -> str:
        """Readable JSON, the same for the same folder."""
        return (
            json.dumps({**asdict(self), "files": dict(sorted(asdict(self)["files"].items()))}, indent=1)
            + "\n"
        )

    def is_of(self, work: Work) -> bool:
        """Whether it tells of this work."""
        return (self.kind, self.source, self.plan) == (work.kind, work.source, work.plan)


def digest_of(*parts: str) -> str:
    """A SHA-256 of texts, in hexadecimal; where one ends and the next begins makes a difference."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def state_of(path: Path | None) -> str:
    """What tells the files at `path` from others without reading them: their names, sizes and times."""
    if path is None:
        return version("superweights")
    found = sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]
    stats = [(entry.name, entry.stat()) for entry in found if not entry.name.startswith(".")]
    told = (f"{name} {held.st_size} {held.st_mtime_ns}" for name, held in stats)
    return digest_of(version("superweights"), *told)


def hashed(path: Path) -> Kept:
    """The size and the hashes of a regular file."""
    whole, size, head = hashlib.sha256(), 0, None
    buffer = memoryview(bytearray(HEAD_BYTES))
    with open(path, "rb", buffering=0) as file:
        while read := file.readinto(buffer):
            whole.update(buffer[:read])
            size += read
            if head is None and size >= HEAD_BYTES:
                head = whole.hexdigest()
    return Kept(size, whole.hexdigest(), head or whole.hexdigest())


def files_in(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything in a folder that is no folder, by its name in it, links as themselves; not the manifest."""
    for here, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        for name in sorted([*files, *links]):
            path = Path(here, name)
            if path != folder / MANIFEST:
                yield path.relative_to(folder).as_posix(), path.lstat()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where it has none. Raises `SuperweightsError` for one that cannot be read."""
    path = folder / MANIFEST
    return read_noun(Manifest, path, hint=_HINT) if os.path.lexists(path) else None


def verify(folder: Path | str, *names: str, thoroughly: bool = False) -> Manifest | None:
    """The manifest of a folder that holds what it says; None for a folder without one.

    Sizes of all files (or of those of `names`), hashes of those up to one MiB and of the first MiB of the others are
    compared; with `thoroughly` every byte, which takes as long as reading them. Files beside those are no fault.
    Raises `SuperweightsError` naming the first file that is missing or is another.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    files = {} if manifest is None else manifest.files
    for name, kept in ((name, kept) for name, kept in files.items() if not names or name in names):
        path = folder / name
        try:
            held = path.stat()
            same = stat.S_ISREG(held.st_mode) and held.st_size == kept.bytes and _same(path, kept, thoroughly)
        except (OSError, ValueError):
            raise SuperweightsError(f"{folder} lacks {name}, which its manifest names.", hint=_HINT) from None
        if not same:
            raise SuperweightsError(
                f"{path} is not what was written: its manifest tells of another.", hint=_HINT
            )
    return manifest


def _same(path: Path, kept: Kept, thoroughly: bool) -> bool:
    if thoroughly:
        return hashed(path) == kept
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(HEAD_BYTES)).hexdigest() == kept.head
