"""Safetensors files on disk as one set of tensors, checked when opened and mapped without copying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from superweights.checkpoint.header import DAMAGED, DTYPES, Stored, read_header
from superweights.checkpoint.listing import INDEX, some
from superweights.checkpoint.mapped import MappedFile
from superweights.checkpoint.tensors import TensorInfo, Traffic
from superweights.errors import SuperweightsError


class ShardStore:
    """Tensors in one or more safetensors files on disk, mapped without copying."""

    format = "safetensors"

    def __init__(self, shards: Iterable[Path], weight_map: Mapping[str, str] | None = None):
        """Open every shard; `weight_map` (tensor to file name, from an index) says which tensors count."""
        self._files: dict[str, MappedFile] = {}
        try:
            for path in shards:
                self._files[path.name] = MappedFile(path)
            headers = {name: _header_of(file) for name, file in self._files.items()}
            self._places = places_of(headers, weight_map)
        except SuperweightsError:
            self.close()
            raise
        self.tensors = {name: info_of(name, stored) for name, (_, stored) in self._places.items()}
        self.traffic = Traffic()

    def read(self, name: str) -> torch.Tensor:
        file, stored = self._places[name]
        return self._files[file].tensor(DTYPES[stored.dtype], stored.shape, stored.start)

    def read_span(self, name: str, first: int, last: int) -> torch.Tensor:
        file, stored = self._places[name]
        dtype = DTYPES[stored.dtype]
        return self._files[file].tensor(dtype, (last - first,), stored.start + first * dtype.itemsize)

    def raw(self, name: str, first: int, last: int) -> bytes:
        file, stored = self._places[name]
        return self._files[file].from_disk(stored.start + first, stored.start + last)

    def prefetch(self, names: Iterable[str]) -> None:
        for name in names:
            file, stored = self._places[name]
            self._files[file].will_need(stored.start, stored.stop)

    read_ahead = prefetch  # the system reads while we go on

    def release(self, names: Iterable[str]) -> None:
        for name in names:
            file, stored = self._places[name]
            self._files[file].drop(stored.start, stored.stop)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def info_of(name: str, stored: Stored) -> TensorInfo:
    """The public description of a stored tensor."""
    return TensorInfo(name, stored.shape, stored.dtype, stored.stop - stored.start, DTYPES[stored.dtype])


def places_of(
    headers: Mapping[str, Mapping[str, Stored]], weight_map: Mapping[str, str] | None
) -> dict[str, tuple[str, Stored]]:
    """Tensor name to its file and its place there. An index decides; without one, names must be unique."""
    if weight_map is not None:
        absent = sorted(name for name, file in weight_map.items() if name not in headers[file])
        if absent:
            raise SuperweightsError(
                f"{INDEX} names tensors that its shards lack: {some(absent)}.", hint=DAMAGED
            )
        return {name: (file, headers[file][name]) for name, file in weight_map.items()}
    places: dict[str, tuple[str, Stored]] = {}
    for file, header in headers.items():
        for name, stored in header.items():
            if name in places:
                raise SuperweightsError(f"{name!r} is in both {places[name][0]} and {file}.", hint=DAMAGED)
            places[name] = file, stored
    return places


def _header_of(file: MappedFile) -> dict[str, Stored]:
    return read_header(file.from_disk, file.size, str(file.path))
