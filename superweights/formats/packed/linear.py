"""A linear layer that keeps its weights packed, and multiplies with torch's own kernels where they fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.errors import SuperweightsError
from superweights.formats.packed.kernels import Kernel, kernel_of
from superweights.formats.packed.packing import PARTS, unpack
from superweights.quantization.scheme import Scheme
from superweights.quantization.tensor import Quantized
from superweights.stream.device import give_back_pages


@dataclass(frozen=True)
class Packing:
    """What config.json says of one packed layer: how it was rounded, and the dtype and shape of each stored part."""

    scheme: Scheme
    """How it was rounded."""
    shape: tuple[int, ...]
    out_axis: int
    """Which axis of the weight is the output channel."""
    dtype: str
    parts: Mapping[str, tuple[str, tuple[int, ...]]]
    """By the part's name: its dtype and its shape."""


class PackedLinear(nn.Module):
    """`y = W x + b` with `W` rounded and packed. Inputs `[..., inputs]`, outputs `[..., outputs]`.

    The parts are buffers, so they move and load like any other. On the CPU, int4 in groups with a float zero point and
    int8 by channel are turned into a kernel's form at the first call, in the place of the codes; the kernels then
    multiply few rows (ours in any dtype, torch's in bfloat16), and kept weights are added as `(w - w_rounded) x[k]`.
    Everything else is dequantized for each call, and nothing dense is kept.
    """

    def __init__(self, packing: Packing, bias: bool, dtype: torch.dtype, device: Any = None):
        super().__init__()
        self.packing = packing
        for name in PARTS:
            stored = packing.parts.get(name)
            part = None
            if stored is not None:
                part = torch.empty(stored[1], dtype=getattr(torch, stored[0]), device=device)
            self.register_buffer(name, part)
        outputs, inputs = packing.shape[:: -1 if packing.out_axis else 1]
        self.out_features, self.in_features = outputs, inputs
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype, device=device), False) if bias else None
        self._kernel: Kernel | None = None
        self._asked = False
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None

    def quantized(self) -> Quantized:
        """The rounded weight, its codes unpacked. Only before the first call: a kernel's form may replace them."""
        p = self.packing
        parts = {name: getattr(self, name) for name in PARTS}
        return unpack(parts, p.scheme, torch.Size(p.shape), getattr(torch, p.dtype), p.out_axis)

    @property
    def weight(self) -> Tensor:
        """The dense weight as the model's own layer would hold it, made anew: changing it changes nothing."""
        weight = self.dequantize(getattr(torch, self.packing.dtype))
        return weight.T if self.packing.out_axis else weight

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The dense weight `[outputs, inputs]`, kept weights in their places."""
        if self._kernel is None:
            weight = self.quantized().dequantize(dtype)
            return weight.T if self.packing.out_axis else weight
        weight = self._kernel.dequantize(dtype)
        if self.kept_indices is not None:
            indices: Any = self.kept_indices
            values: Any = self.kept_values
            weight[tuple(indices.long().T)] = values.to(dtype)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        self.prepare(x.dtype)
        flat = x.reshape(-1, self.in_features)
        if self._kernel is None or not self._kernel.takes(flat):
            return functional.linear(x, self.dequantize(x.dtype), self.bias)
        y = self._kernel.multiply(flat)
        if self._kept is not None:
            outputs, inputs, missing = self._kept
            y.index_add_(1, outputs, flat[:, inputs] * missing)
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def prepare(self, dtype: torch.dtype) -> None:
        """Take the form of a kernel, if there is one for this layer; the packed codes are given up then."""
        if self._asked:
            return
        self._asked = True
        quantized = self.quantized()
        self._kernel = kernel_of(quantized, dtype)
        if self._kernel is not None:
            self._kept = _missing(quantized, dtype)
            codes: Any = self.codes
            give_back_pages(codes)
            self.codes = None

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        """Moves and casts, as for any module; a kernel's form stays where and as it was made."""
        if self._kernel is not None and fn(torch.empty(0)).device.type != "cpu":
            raise SuperweightsError(
                "This packed layer has taken the form of a CPU kernel and cannot move to another device.",
                hint="load the model with device_map before its first forward pass.",
            )
        return super()._apply(fn, recurse)


def _missing(quantized: Quantized, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
    """Output, input and `w - w_rounded` of each kept weight."""
    kept = quantized.kept
    if not len(kept):
        return None
    rounded = quantized.dequantize(torch.float32, kept=False)
    outputs, inputs = kept.indices.long().T
    missing = kept.values.float() - rounded[outputs, inputs]
    return outputs, inputs, missing.to(dtype)
