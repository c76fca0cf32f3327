"""A quantized checkpoint in the place of the original: the original's model computes with its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from superweights.audits.naming import names_in
from superweights.checkpoint import Checkpoint
from superweights.checkpoint.tensors import Settings, TensorInfo, Traffic, WholeReads
from superweights.decoding import Decoded, Decoding, method_of
from superweights.errors import SuperweightsError


def standing_in(quantized: Checkpoint, original: Checkpoint) -> Checkpoint:
    """`original` with the weights that `quantized` has, one tensor at a time in float32.

    So a quantized model runs without the kernels of its method, streamed if need be. What those kernels round
    besides (activations, sums) is not in it.
    """
    settings: Settings = original._settings
    if method_of(original) not in ("dense", "gguf"):
        settings = Unquantized(settings)
    return replace(
        original, name=quantized.name, _store=Pair(Decoding(quantized), original), _settings=settings
    )


@dataclass(frozen=True)
class Unquantized:
    """The settings of a quantized checkpoint whose weights are decoded: without the word of its quantization."""

    settings: Settings
    """Those of the quantized checkpoint."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration without `quantization_config`."""
        return {name: value for name, value in self.settings.config.items() if name != "quantization_config"}

    def companion(self, file: str) -> dict[str, Any]:
        """Nothing: companions only tell of the quantization."""
        return {}

    def model_config(self, trust_remote_code: bool) -> Any:
        """A copy of the configuration object that names no quantization."""
        config = copy.deepcopy(self.settings.model_config(trust_remote_code))
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        return config

    def tokenizer(self, trust_remote_code: bool) -> Any:
        """The checkpoint's own."""
        return self.settings.tokenizer(trust_remote_code)

    def processor(self, trust_remote_code: bool) -> Any:
        """The checkpoint's own."""
        return self.settings.processor(trust_remote_code)


@dataclass(frozen=True)
class Pair(WholeReads):
    """The original's tensors as the quantized checkpoint has them. Implements `checkpoint.tensors.Store`."""

    quantized: Decoding
    """Decodes what stands in the quantized one."""
    original: Checkpoint
    """Says which tensors there are."""
    format: str = "safetensors"
    """The storage that the pair poses as."""

    @cached_property
    def names(self) -> dict[str, str]:
        """The quantized checkpoint's name for each of the original's tensors that it has."""
        return names_in(self.quantized, self.original, self.original.tensors)

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {
            name: replace(info, dtype="F32", torch_dtype=torch.float32, nbytes=4 * info.size)
            for name, info in self.original.tensors.items()
            if name in self.names
        }

    @property
    def traffic(self) -> Traffic:
        return self.quantized.checkpoint.traffic

    def decoded(self, name: str) -> Decoded:
        """What the original calls `name`, in its shape. Raises where the quantized checkpoint lacks it."""
        shape = tuple(self.original.tensors[name].shape)
        if name not in self.names:
            return self.quantized.read(name)  # says what is missing
        found = self.quantized.read(self.names[name])
        if tuple(found.weight.shape) != shape:
            raise SuperweightsError(
                f"{name} has shape {list(found.weight.shape)} in {self.quantized.checkpoint.name}, and {list(shape)} "
                "in the original.",
                hint="give the checkpoint that was quantized.",
            )
        return found

    def read(self, name: str) -> torch.Tensor:
        return self.decoded(name).weight.float().contiguous()

    def prefetch(self, names: Iterable[str]) -> None: ...

    read_ahead = prefetch

    def release(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self.names:
                self.quantized.release(self.names[name])

    def close(self) -> None: ...
