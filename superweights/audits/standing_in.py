"""A quantized checkpoint in the place of the original: the original's model computes with its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from superweights.audits.stored import holds, read_stored
from superweights.checkpoint import Checkpoint
from superweights.checkpoint.tensors import TensorInfo, Traffic


def standing_in(quantized: Checkpoint, original: Checkpoint) -> Checkpoint:
    """`original` with the weights that `quantized` has, one tensor at a time in float32.

    So a quantized model runs without the kernels of its method, streamed if need be. What those kernels round
    besides (activations, sums) is not in it.
    """
    return replace(original, name=quantized.name, _store=_Store(quantized, original))


@dataclass(frozen=True)
class _Store:
    """Implements `checkpoint.tensors.Store`."""

    quantized: Checkpoint
    original: Checkpoint
    format: str = "safetensors"

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {
            name: replace(info, dtype="F32", torch_dtype=torch.float32, nbytes=4 * info.size)
            for name, info in self.original.tensors.items()
            if holds(self.quantized, name)
        }

    @property
    def traffic(self) -> Traffic:
        return self.quantized.traffic

    def read(self, name: str) -> torch.Tensor:
        return read_stored(self.quantized, name, self.original.tensors[name].shape).weight.contiguous()

    def read_span(self, name: str, first: int, last: int) -> torch.Tensor:
        return self.read(name).reshape(-1)[first:last]

    def raw(self, name: str, first: int, last: int) -> bytes:
        return self.read(name).reshape(-1).view(torch.uint8)[first:last].numpy().tobytes()

    def prefetch(self, names: Iterable[str]) -> None: ...

    def release(self, names: Iterable[str]) -> None: ...

    def close(self) -> None: ...
