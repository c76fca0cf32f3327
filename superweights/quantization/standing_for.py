"""A checkpoint as a plan would leave it, rounded while it is read: nothing is written, one tensor is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from superweights.checkpoint import Checkpoint
from superweights.checkpoint.tensors import TensorInfo, Traffic, WholeReads
from superweights.quantization.plan import Plan


def rounded_checkpoint(checkpoint: Checkpoint, plan: Plan) -> Checkpoint:
    """`checkpoint` whose tensors read as `plan` rounds and stores them, in float32 where it changes them."""
    return replace(checkpoint, _store=_Rounded(checkpoint, plan))


@dataclass(frozen=True)
class _Rounded(WholeReads):
    """The tensors of a checkpoint under a plan. Implements `checkpoint.tensors.Store`."""

    checkpoint: Checkpoint
    plan: Plan
    format: str = "safetensors"

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.checkpoint.tensors

    @property
    def traffic(self) -> Traffic:
        return self.checkpoint.traffic

    def read(self, name: str) -> torch.Tensor:
        weight = self.checkpoint.read(name)
        if name in self.plan.schemes:
            return self.plan.round(name, weight).dequantize(torch.float32)
        return self.plan.stored(name, weight).to(weight.dtype)

    def prefetch(self, names: Iterable[str]) -> None:
        self.checkpoint.prefetch(names)

    def read_ahead(self, names: Iterable[str]) -> None:
        self.checkpoint.read_ahead(names)

    def release(self, names: Iterable[str]) -> None:
        self.checkpoint.release(names)

    def close(self) -> None: ...
