"""A folder that appears at once when all of it is written, and goes on where a stopped run has left it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from superweights.artefacts.disk import explained, remove, settle, settle_folder
from superweights.artefacts.manifest import Kept, Manifest, Work, files_in, hashed, read_manifest
from superweights.artefacts.place import (
    MANIFEST,
    check_new,
    clear_dead,
    is_worth_keeping,
    lock,
    parents_made,
    partial_of,
    refuse_company,
)
from superweights.errors import SuperweightsError


class Draft:
    """A folder in the making, at `path`: files that are whole stand in its manifest, with their hashes.

    A file counts once it is on the disk and in the manifest; what is not in it when a run begins is what a stopped one
    has left in the middle, and is removed.
    """

    def __init__(self, path: Path, work: Work):
        self.path = path
        # Set where what was made turned out to be of no use: then nothing of it is left.
        self.useless = False
        self._work = work
        self._mode = path.stat().st_mode & 0o666  # what this process's new files are allowed
        self._sealer = ThreadPoolExecutor(1, "sealing")
        self._sealing: Future[None] | None = None
        self._files: dict[str, Kept] = dict(self._whole())
        self._clear_strangers()
        self._tell()

    @property
    def files(self) -> Mapping[str, Kept]:
        """The files that are whole, by name."""
        return self._files

    def add(self, name: str, write: Callable[[Path], None]) -> None:
        """Have `write` make the file `name`, unless it is whole already.

        Its hash is taken, and the disk waited for, while the caller goes on to the next one.
        """
        if name in self._files:
            return
        write(self.path / name)
        self.wait()
        self._sealing = self._sealer.submit(self._seal, name)

    def wait(self) -> None:
        """Wait until every file that was added counts."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            sealing.result()

    def complete(self) -> None:
        """Take in whatever else was put into the folder, and see that all of it is on the disk."""
        self.wait()
        for name, held in list(files_in(self.path)):
            if not stat.S_ISREG(held.st_mode):
                raise SuperweightsError(
                    f"{name} in {self.path} is no regular file.",
                    hint="nothing but files is written; try again.",
                )
            if name not in self._files:
                self._files[name] = self._hashed(name)
        self._tell()
        for here, _, _ in os.walk(self.path):
            settle_folder(Path(here))

    def close(self) -> None:
        """Let what is under way end, whatever becomes of it."""
        with suppress(OSError):
            self.wait()
        self._sealer.shutdown()

    def _seal(self, name: str) -> None:
        self._files[name] = self._hashed(name)
        self._tell()

    def _hashed(self, name: str) -> Kept:
        path = self.path / name
        path.chmod(self._mode)  # safetensors makes files that nobody else can read
        kept = hashed(path)
        settle(path)
        return kept

    def _tell(self) -> None:
        """Write the manifest as it is now, in one step."""
        work, new = self._work, self.path / f"{MANIFEST}.new"
        manifest = Manifest(work.kind, work.source, work.plan, self._files)
        new.write_text(manifest.to_json(), encoding="utf-8")
        settle(new)
        os.replace(new, self.path / MANIFEST)

    def _whole(self) -> Iterator[tuple[str, Kept]]:
        """The files of a stopped run of the same work that are as its manifest says."""
        try:
            manifest = None if (self.path / MANIFEST).is_symlink() else read_manifest(self.path)
        except SuperweightsError:
            return
        if manifest is None or not manifest.is_of(self._work):
            return
        for name, held in files_in(self.path):
            kept = manifest.files.get(name)
            alone = stat.S_ISREG(held.st_mode) and held.st_nlink == 1
            if alone and kept is not None and held.st_size == kept.bytes and hashed(self.path / name) == kept:
                yield name, kept

    def _clear_strangers(self) -> None:
        """Remove all that is no whole file: a link is removed, and what it leads to is left alone."""
        for entry in list(self.path.iterdir()):
            inside = any(name.startswith(f"{entry.name}/") for name in self._files)
            if entry.name not in self._files and not inside:
                remove(entry)


def seal(folder: Path, work: Work) -> None:
    """Write the manifest of a folder that is whole, and wait until all of it is on the disk; it is renamed later."""
    files = {}
    for name, _ in list(files_in(folder)):
        files[name] = hashed(folder / name)
        settle(folder / name)
    (folder / MANIFEST).write_text(
        Manifest(work.kind, work.source, work.plan, files).to_json(), encoding="utf-8"
    )
    settle(folder / MANIFEST)
    settle_folder(folder)


@contextmanager
def new_folder(to: Path, work: Work) -> Iterator[Draft]:
    """A draft of the folder `to`, which appears when the body has ended, whole and on the disk.

    A stopped body leaves the draft where it holds whole files, and the same `work` goes on from there; other work for
    `to` begins anew beside it and, once `to` is there, removes it. The end: manifest, rename, then the clearing.

    Raises `SuperweightsError` before the body where no new folder can stand at `to` or another process is writing it,
    and for a full disk.
    """
    to = Path(to)
    check_new(to, "folder")
    with explained(to), parents_made(to):
        clear_dead(to)
        partial = partial_of(to, work.mark)
        handle = claimed(partial, to)
        draft: Draft | None = None
        try:
            refuse_company(to, partial)
            draft = Draft(partial, work)
            yield draft
            draft.complete()
            os.replace(partial, to)
        except BaseException:
            if draft is not None:
                draft.close()
            if (draft is not None and draft.useless) or not is_worth_keeping(partial):
                remove(partial)
            raise
        finally:
            if draft is not None:
                draft.close()
            os.close(handle)
        settle_folder(to.parent)
        clear_dead(to, all_of_them=True)


def claimed(partial: Path, to: Path) -> int:
    """The handle that locks the partial folder, made where it is not there."""
    while True:
        if os.path.lexists(partial) and (partial.is_symlink() or not partial.is_dir()):
            remove(partial)
        with suppress(FileExistsError):
            partial.mkdir()
        handle = lock(partial)
        if handle is not None:
            return handle
        if partial.is_dir():
            raise SuperweightsError(
                f"Another process is writing {to}.", hint="wait for it, or choose another name."
            )
