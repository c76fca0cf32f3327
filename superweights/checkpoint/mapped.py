"""A file in memory by map: bytes come from the disk when they are touched, and may leave again."""

from __future__ import annotations

import mmap
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from superweights.checkpoint.tensors import count, tensor_over
from superweights.errors import SuperweightsError

# A private map can be written, so the kernel would count all of it against memory, and refuse a shard
# larger than the machine, unless told not to. Python 3.11 lacks the name; these machines share the value.
_NO_RESERVE = 0x4000 if sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64") else 0


class MappedFile:
    """One file, mapped copy-on-write: tensors over it cost no memory, and edits never reach the disk."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size
            self._map = self._open_map()
        except OSError as error:
            raise SuperweightsError(
                f"Cannot open {path}: {error.strerror or error}.", hint="check that the file can be read."
            ) from None

    def _open_map(self) -> mmap.mmap | bytes:
        if self.size == 0:
            return b""
        if sys.platform == "win32":
            return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        flags, prot = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(self._file.fileno(), 0, flags=flags, prot=prot)

    def tensor(self, dtype: torch.dtype, shape: Iterable[int], start: int) -> torch.Tensor:
        """The tensor whose first byte is `start`. Writing to it changes memory only."""
        self._check_open()
        shape = tuple(shape)
        return tensor_over(self._map, dtype, start, count(shape)).reshape(shape)

    def view(self) -> memoryview:
        """The whole file, for reading."""
        return memoryview(self._map).toreadonly()

    def from_disk(self, start: int, stop: int) -> bytes:
        """Bytes from the file itself, whatever was written to the tensors over the map."""
        self._check_open()
        if not hasattr(os, "pread"):
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        return os.pread(self._file.fileno(), stop - start, start)

    def will_need(self, start: int, stop: int) -> None:
        """Ask the system to bring these bytes into memory soon."""
        if isinstance(self._map, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED") and stop > start:
            begin = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, begin, stop - begin)

    def drop(self, start: int, stop: int) -> None:
        """Let these bytes leave memory; the next touch brings them back as the file holds them.

        A page that also holds a neighbour's bytes stays, and only our part of it is restored.
        """
        if not isinstance(self._map, mmap.mmap) or stop <= start:
            return
        if sys.platform != "linux":  # elsewhere the advice may keep edited pages: take a fresh map instead
            self._map = self._open_map()
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = stop if stop == self.size else stop - stop % mmap.PAGESIZE
        if first >= last:
            return self._restore(start, stop)
        self._map.madvise(mmap.MADV_DONTNEED, first, last - first)
        self._restore(start, first)
        self._restore(last, stop)

    def _restore(self, start: int, stop: int) -> None:
        """Put the file's bytes back where a tensor over the map was edited."""
        stored = self.from_disk(start, stop)
        if stop > start and self._map[start:stop] != stored:
            self._map[start:stop] = stored  # type: ignore[index]  # a map here, never bytes

    def _check_open(self) -> None:
        if self._file.closed:
            raise SuperweightsError(
                f"{self.path} is closed.", hint="read it before the checkpoint is closed."
            )

    def close(self) -> None:
        """Close the file. The map lives as long as tensors over it do."""
        self._file.close()
        self._map = b""
