"""What one stored tensor is, and what every kind of checkpoint must be able to do with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from superweights.errors import SuperweightsError


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor: its name, shape, the dtype as the file spells it, and its bytes in the file.

    `dtype` is the file's own word: `BF16`, `F32`, `F8_E4M3` in safetensors, `Q4_1`, `F16` in GGUF.
    `torch_dtype` is what `read` returns.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    """How many bytes it takes in the file."""
    torch_dtype: torch.dtype

    @property
    def size(self) -> int:
        """How many numbers the tensor holds."""
        return count(self.shape)


@dataclass(frozen=True)
class Traffic:
    """What has been asked of a remote checkpoint's weight files: requests and bytes received."""

    requests: int = 0
    bytes: int = 0


class Store(Protocol):
    """The open resource behind a checkpoint: its tensors, by name."""

    format: str

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    @property
    def traffic(self) -> Traffic: ...

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, in its own shape."""
        ...

    def read_span(self, name: str, first: int, last: int) -> torch.Tensor:
        """Elements `first` to `last` of the tensor laid out flat, row by row."""
        ...

    def raw(self, name: str, first: int, last: int) -> bytes:
        """Bytes `first` to `last` of the tensor as the file holds them."""
        ...

    def prefetch(self, names: Iterable[str]) -> None: ...

    def read_ahead(self, names: Iterable[str]) -> None:
        """As `prefetch`, and back at once."""
        ...

    def release(self, names: Iterable[str]) -> None: ...

    def close(self) -> None: ...


class WholeReads(ABC):
    """The parts of a tensor, for a store that makes each tensor whole."""

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, in its own shape."""

    def read_span(self, name: str, first: int, last: int) -> torch.Tensor:
        """Elements `first` to `last` of the tensor laid out flat."""
        return self.read(name).reshape(-1)[first:last]

    def raw(self, name: str, first: int, last: int) -> bytes:
        """Bytes `first` to `last` of the tensor as `read` makes it."""
        return self.read(name).reshape(-1).view(torch.uint8)[first:last].numpy().tobytes()


class Settings(Protocol):
    """Where a checkpoint's configuration and tokenizer come from."""

    @property
    def config(self) -> dict[str, Any]: ...

    def companion(self, file: str) -> dict[str, Any]:
        """The JSON file of this name beside the configuration; empty where there is none."""
        ...

    def model_config(self, trust_remote_code: bool) -> Any: ...

    def tokenizer(self, trust_remote_code: bool) -> Any: ...

    def processor(self, trust_remote_code: bool) -> Any:
        """What prepares pictures and sounds for the model; None where there is none."""
        ...


def count(shape: Iterable[int]) -> int:
    """The product of `shape`, in whole numbers that cannot overflow."""
    product = 1
    for n in shape:
        product *= n
    return product


def tensor_over(buffer: Any, dtype: torch.dtype, offset: int, size: int) -> torch.Tensor:
    """A flat tensor of `size` numbers over `buffer`, without copying where its address allows."""
    if size == 0:
        return torch.empty(0, dtype=dtype)
    if offset % dtype.itemsize:  # old files need not be aligned; torch may not read such addresses
        buffer, offset = _copy(memoryview(buffer)[offset : offset + size * dtype.itemsize]), 0
    return torch.frombuffer(buffer, dtype=dtype, count=size, offset=offset)


def _copy(part: memoryview) -> bytearray:
    try:
        return bytearray(part)
    except MemoryError:
        raise SuperweightsError(
            f"A tensor of {len(part):,} bytes stands at an odd address and must be copied, but there is no room.",
            hint="read it in parts, with read_rows, or save the checkpoint again with a current safetensors.",
        ) from None
