"""A transformers folder: its safetensors shards, found, checked and mapped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from superweights.checkpoint.header import DAMAGED, DTYPES, Stored, parse_json, read_header
from superweights.checkpoint.mapped import MappedFile
from superweights.checkpoint.tensors import TensorInfo, Traffic
from superweights.errors import SuperweightsError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_JSON = 100_000_000
_SHARD = re.compile(r"-(?P<number>\d{5,})-of-(?P<total>\d{5,})\.safetensors$")


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
            self._places = _places(headers, weight_map)
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

    def release(self, names: Iterable[str]) -> None:
        for name in names:
            file, stored = self._places[name]
            self._files[file].drop(stored.start, stored.stop)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def open_folder(folder: Path) -> ShardStore:
    """The safetensors weights of `folder`: one file, or the shards of its index."""
    if (folder / WEIGHTS).is_file():
        return ShardStore([folder / WEIGHTS])
    if (folder / INDEX).is_file():
        weight_map = read_index(folder / INDEX)
        missing = sorted(file for file in set(weight_map.values()) if not (folder / file).is_file())
        if missing:
            raise SuperweightsError(
                f"{folder} lacks {_some(missing)}, which {INDEX} names.", hint="download the missing files."
            )
        return ShardStore([folder / file for file in sorted(set(weight_map.values()))], weight_map)
    return ShardStore(_unlisted(folder))


def read_index(path: Path) -> dict[str, str]:
    """Tensor name to shard file name, as `model.safetensors.index.json` has it."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SuperweightsError(f"{path} has no weight_map, which says where each tensor is.", hint=DAMAGED)
    for file in weight_map.values():
        if not isinstance(file, str) or not is_plain_name(file):
            raise SuperweightsError(
                f"{path} points to {file!r}, which is not a file name in its own folder.",
                hint="an index may only name files beside it; do not use this checkpoint.",
            )
    return weight_map


def is_plain_name(name: str) -> bool:
    """Whether `name` can only mean a file in the folder it is used in."""
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\:\0")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file, refused when it is absurdly large."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise SuperweightsError(
                f"{path} is over 100 MB, too large for what it should hold.", hint=DAMAGED
            )
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise SuperweightsError(
            f"Cannot read {path}: {error.strerror or error}.", hint="check that the file can be read."
        ) from None


def info_of(name: str, stored: Stored) -> TensorInfo:
    """The public description of a stored tensor."""
    return TensorInfo(name, stored.shape, stored.dtype, stored.stop - stored.start, DTYPES[stored.dtype])


def _unlisted(folder: Path) -> list[Path]:
    """The safetensors files of a folder without an index, where it is plain that they belong together."""
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if len(found) == 1 and not found[0].name.startswith("adapter_"):
        return found
    numbers = [_SHARD.search(path.name) for path in found]
    if found and all(numbers):
        stems = {path.name[: match.start()] for path, match in zip(found, numbers, strict=True) if match}
        totals = {int(match["total"]) for match in numbers if match}
        if len(stems) == 1 and totals == {len(found)}:
            return found
    raise _no_weights(folder, [path.name for path in found])


def _no_weights(folder: Path, found: list[str]) -> SuperweightsError:
    if found and all(name.startswith("adapter_") for name in found):
        return SuperweightsError(
            f"{folder} holds an adapter, not a model.",
            hint="give the base model that the adapter belongs to.",
        )
    if found:
        return SuperweightsError(
            f"{folder} has no {INDEX}, and its files do not say which belong together: {_some(found)}.",
            hint="give the path of one .safetensors file, or download the index.",
        )
    if not any(folder.iterdir()):
        return SuperweightsError(f"{folder} is empty.", hint="give a folder with config.json and weights.")
    what = "a config.json but no weights" if (folder / "config.json").is_file() else "no weights"
    return SuperweightsError(
        f"{folder} has {what}.", hint=f"it should hold {WEIGHTS}, or shards with {INDEX}."
    )


def _header_of(file: MappedFile) -> dict[str, Stored]:
    return read_header(file.from_disk, file.size, str(file.path))


def _places(
    headers: Mapping[str, Mapping[str, Stored]], weight_map: Mapping[str, str] | None
) -> dict[str, tuple[str, Stored]]:
    """Tensor name to its file and its place there. An index decides; without one, names must be unique."""
    if weight_map is not None:
        absent = sorted(name for name, file in weight_map.items() if name not in headers[file])
        if absent:
            raise SuperweightsError(
                f"{INDEX} names tensors that its shards lack: {_some(absent)}.", hint=DAMAGED
            )
        return {name: (file, headers[file][name]) for name, file in weight_map.items()}
    places: dict[str, tuple[str, Stored]] = {}
    for file, header in headers.items():
        for name, stored in header.items():
            if name in places:
                raise SuperweightsError(f"{name!r} is in both {places[name][0]} and {file}.", hint=DAMAGED)
            places[name] = file, stored
    return places


def _some(names: list[str]) -> str:
    """Up to three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
