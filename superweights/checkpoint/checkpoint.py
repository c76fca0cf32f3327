"""The checkpoint itself: what it is called, what it holds, and the one door to its bytes."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from superweights.address import Address
from superweights.checkpoint.codes import scale_beside
from superweights.checkpoint.tensors import Settings, Store, TensorInfo, Traffic, count
from superweights.errors import SuperweightsError

_SAMPLES = 16
_SAMPLE_BYTES = 4096


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open checkpoint: its description, and its tensors by name.

    `name` is what the user asked for, `revision` the commit it stands for (hub only), `path` the folder or
    file on this machine. Use it in a `with`, or call `close`. Tensors may be read from several threads.
    """

    name: str
    revision: str | None
    path: Path | None
    trust_remote_code: bool
    """Whether code that it brings along may run."""
    _store: Store = field(repr=False)
    _settings: Settings = field(repr=False)

    @property
    def format(self) -> str:
        """`safetensors`, `gguf` or `pickle`."""
        return self._store.format

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as stored; for GGUF as transformers maps it; empty where there is none."""
        return self._settings.config

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor under transformers' parameter names: shape, stored dtype, bytes. Reads no values."""
        return self._store.tensors

    @property
    def traffic(self) -> Traffic:
        """Requests made and bytes received for remote weights so far; zero for local files."""
        return self._store.traffic

    def model_config(self) -> Any:
        """The transformers configuration object. Raises `SuperweightsError` where there is none."""
        return self._settings.model_config(self.trust_remote_code)

    def tokenizer(self) -> Any:
        """The transformers tokenizer, or None where the checkpoint has none."""
        return self._settings.tokenizer(self.trust_remote_code)

    def processor(self) -> Any:
        """What prepares pictures and sounds for the model, or None where the checkpoint has no such thing."""
        return self._settings.processor(self.trust_remote_code)

    def read(self, name: str) -> torch.Tensor:
        """The tensor `name` in its stored dtype (GGUF: float32), on the CPU.

        Local safetensors are not copied: the tensor lies over the file's memory map. Writing to it is
        allowed, changes this process's memory only, and lasts until `release`. Raises `SuperweightsError` for
        codes, numbers that are weights only together with a scale beside them: `superweights.decoding` reads those.
        """
        self._check_weight(name)
        return self._store.read(name)

    def read_stored(self, name: str) -> torch.Tensor:
        """As `read`, and codes as the codes that they are: for whoever knows the format."""
        self._check(name)
        return self._store.read(name)

    def companion(self, file: str) -> dict[str, Any]:
        """The JSON file of this name beside the configuration; empty where there is none."""
        return self._settings.companion(file)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor: slices of its first dimension. Reads only their bytes."""
        shape = self._check_weight(name).shape
        if not shape or not 0 <= start <= stop <= shape[0]:
            raise SuperweightsError(
                f"{name} has no rows {start} to {stop}: its shape is {list(shape)}.",
                hint="rows count from 0.",
            )
        row = count(shape[1:])
        return self._store.read_span(name, start * row, stop * row).reshape(stop - start, *shape[1:])

    def element(self, name: str, index: tuple[int, ...]) -> float:
        """One number of a tensor."""
        shape = self._check_weight(name).shape
        Address(name, tuple(index)).check_shape(shape)
        at = 0
        for i, n in zip(index, shape, strict=True):
            at = at * n + i
        return float(self._store.read_span(name, at, at + 1)[0])

    def check(self, address: Address) -> None:
        """Raise for an address that the checkpoint does not have: no such tensor, or an index outside its shape."""
        address.check_shape(self._check(address.tensor).shape)

    def prefetch(self, names: Iterable[str]) -> None:
        """Bring these tensors near: local files are read ahead, remote ones fetched in few requests."""
        self._store.prefetch([self._check(name).name for name in names])

    def read_ahead(self, names: Iterable[str]) -> None:
        """Begin to bring these tensors near and come back at once: `read` and `prefetch` wait for what is on its way.

        One such set is on its way at a time: an earlier one is waited for. `release` of any of them ends it.
        """
        self._store.read_ahead([self._check(name).name for name in names])

    def release(self, names: Iterable[str]) -> None:
        """Let the memory of these tensors go. The next `read` gives the file's values, edits undone."""
        self._store.release([self._check(name).name for name in names])

    def fingerprint(self) -> str:
        """A short hash of all names, shapes and dtypes and of a sample of bytes: equal for equal checkpoints.

        Sixteen tensors, evenly spaced by name, give up to 4096 bytes from their middle. It does not depend
        on the folder, on how tensors are spread over files, nor on edits in memory. It tells checkpoints
        apart; it does not prove that every byte is the same.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        names = sorted(self.tensors)
        digest = hashlib.sha256()
        for name in names:
            info = self.tensors[name]
            digest.update(repr((name, tuple(info.shape), info.dtype)).encode())
        for i in range(min(_SAMPLES, len(names))):
            info = self.tensors[names[i * len(names) // min(_SAMPLES, len(names))]]
            first = max(0, info.nbytes - _SAMPLE_BYTES) // 2
            digest.update(self._store.raw(info.name, first, min(first + _SAMPLE_BYTES, info.nbytes)))
        return digest.hexdigest()[:32]

    def origin(self) -> dict[str, str | None]:
        """Where results came from, for a Record: name, revision, format, fingerprint."""
        return {
            "name": self.name,
            "revision": self.revision,
            "format": self.format,
            "fingerprint": self.fingerprint(),
        }

    def close(self) -> None:
        """Close the files. Tensors already read stay valid."""
        self._store.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_weight(self, name: str) -> TensorInfo:
        """As `_check`, and an error for codes."""
        info = self._check(name)
        scale = scale_beside(self.tensors, name)
        if scale is not None:
            raise SuperweightsError(
                f"{name} in {self.name} holds {info.dtype} codes, whose scale is {scale}: it is no weight by itself.",
                hint="the checkpoint is quantized. superweights audit decodes it; for all else give the original.",
            )
        return info

    def _check(self, name: str) -> TensorInfo:
        """The tensor's description, or an error that names the closest ones."""
        info = self.tensors.get(name)
        if info is None:
            close = difflib.get_close_matches(name, self.tensors, n=3, cutoff=0.4)
            hint = (
                f"the closest names: {', '.join(close)}."
                if close
                else "see checkpoint.tensors for all names."
            )
            raise SuperweightsError(f"{self.name} has no tensor {name!r}.", hint=hint)
        return info
