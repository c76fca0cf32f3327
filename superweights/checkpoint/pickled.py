"""Weights in Python pickles: refused unless asked for, and then only with torch's restricted unpickler."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from superweights.checkpoint.complaints import complaints
from superweights.checkpoint.header import DAMAGED, DTYPES
from superweights.checkpoint.listing import read_index, some
from superweights.checkpoint.tensors import TensorInfo, Traffic
from superweights.errors import SuperweightsError

PICKLED = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
ENDINGS = (".bin", ".pt", ".pth", ".ckpt")
_SPELLED = {dtype: name for name, dtype in DTYPES.items()}


class PickleStore:
    """Tensors of one or more files written by torch.save."""

    format = "pickle"

    def __init__(self, files: Iterable[Path]):
        self.traffic = Traffic()
        self._lock = Lock()
        self._loaded: dict[Path, dict[str, torch.Tensor]] = {}
        self._files: dict[str, Path] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for file in files:
            self._loaded[file] = self._load(file)
            for name, tensor in self._loaded[file].items():
                if name in self._files:
                    raise SuperweightsError(
                        f"{name!r} is in both {self._files[name]} and {file}.", hint=DAMAGED
                    )
                self._files[name] = file
                self.tensors[name] = _info_of(name, tensor)

    def read(self, name: str) -> torch.Tensor:
        file = self._files[name]
        with self._lock:
            if file not in self._loaded:
                self._loaded[file] = self._load(file)
            return self._loaded[file][name]

    def read_span(self, name: str, first: int, last: int) -> torch.Tensor:
        return self.read(name).reshape(-1)[first:last]

    def raw(self, name: str, first: int, last: int) -> bytes:
        """From a fresh load: what `read` gave out may have been edited."""
        tensor = self._load(self._files[name])[name].contiguous().reshape(-1)
        return tensor.view(torch.uint8)[first:last].numpy().tobytes()

    def prefetch(self, names: Iterable[str]) -> None:
        for name in names:
            self.read(name)

    read_ahead = prefetch  # memory maps

    def release(self, names: Iterable[str]) -> None:
        """Forget the files of these tensors: a pickle is loaded whole, and cheaply, by memory map."""
        with self._lock:
            for name in names:
                self._loaded.pop(self._files[name], None)

    def close(self) -> None:
        self._loaded.clear()

    def _load(self, file: Path) -> dict[str, torch.Tensor]:
        """The tensors of one file. Only tensors and plain containers are ever made from a pickle."""
        hint = "it may be damaged, or hold more than tensors; prefer a safetensors copy."
        with complaints(f"{file} cannot be loaded as plain weights", hint=hint):
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
        return _tensors_in(found, file)


def open_pickles(folder: Path) -> PickleStore:
    """The pickled weights of `folder`: one file, or the shards of its index."""
    if (folder / PICKLED).is_file():
        return PickleStore([folder / PICKLED])
    shards = sorted(set(read_index(folder / PICKLE_INDEX).values()))
    missing = [file for file in shards if not (folder / file).is_file()]
    if missing:
        raise SuperweightsError(
            f"{folder} lacks {some(missing)}, which {PICKLE_INDEX} names.", hint="download the missing files."
        )
    return PickleStore([folder / file for file in shards])


def holds_pickles(folder: Path) -> bool:
    """Whether the folder has pickled weights under the names that transformers knows."""
    return (folder / PICKLED).is_file() or (folder / PICKLE_INDEX).is_file()


def check_allowed(allow_pickle: bool, where: str) -> None:
    """Raise unless pickles were asked for."""
    if not allow_pickle:
        raise SuperweightsError(
            f"{where} holds pickled weights, a format that can carry programs.",
            hint="use a safetensors copy; or ask again with allow_pickle, which loads tensors and nothing else.",
        )


def _tensors_in(found: Any, file: Path) -> dict[str, torch.Tensor]:
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise SuperweightsError(f"{file} holds no tensors by name.", hint="expected a saved state_dict.")
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    strange = [name for name, value in tensors.items() if not isinstance(name, str) or not _plain(value)]
    if strange or not tensors:
        raise SuperweightsError(
            f"{file} holds tensors that cannot be read here: {some([str(name) for name in strange]) or 'none'}.",
            hint="save them again as plain dense tensors.",
        )
    return tensors


def _plain(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.dtype in _SPELLED and not tensor.is_meta


def _info_of(name: str, tensor: torch.Tensor) -> TensorInfo:
    return TensorInfo(name, tuple(tensor.shape), _SPELLED[tensor.dtype], tensor.nbytes, tensor.dtype)


def _is_zip(file: Path) -> bool:
    """Whether the file is of torch's present format, the only one that can be mapped."""
    with file.open("rb") as head:
        return head.read(2) == b"PK"
