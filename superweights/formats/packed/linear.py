"""A linear layer that keeps its weights packed, and multiplies with torch's own kernels where they fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.formats.packed.packing import PARTS, unpack
from superweights.quantize.scheme import Scheme
from superweights.quantize.tensor import Quantized

# torch's int4 kernel for the CPU takes these group sizes; its outputs come in steps of so many.
_GROUPS, _OUTPUTS = (32, 64, 128, 256), 16
# With more rows than this at once, the weights are dequantized and multiplied as a matrix.
_FEW_ROWS = 16


@dataclass(frozen=True)
class Packing:
    """What config.json says of one packed layer: how it was rounded, and the dtype and shape of each stored part."""

    scheme: Scheme
    shape: tuple[int, ...]
    out_axis: int
    dtype: str
    parts: Mapping[str, tuple[str, tuple[int, ...]]]


class PackedLinear(nn.Module):
    """`y = W x + b` with `W` rounded and packed. Inputs `[..., inputs]`, outputs `[..., outputs]`.

    The parts are buffers, so they move and load like any other. In bfloat16 on the CPU, int4 in groups with a
    float zero point, and int8 by channel, use torch's kernels for few rows; the weights that are kept exactly are then
    added as `(w - w_rounded) x[k]`. Everything else is dequantized for each call, and nothing dense is kept.
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
        self._kernel: tuple[str, Tensor, Tensor] | None = None
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None

    def quantized(self) -> Quantized:
        """The rounded weight, its codes unpacked."""
        p = self.packing
        parts = {name: getattr(self, name) for name in PARTS}
        return unpack(parts, p.scheme, torch.Size(p.shape), getattr(torch, p.dtype), p.out_axis)

    @property
    def weight(self) -> Tensor:
        """The dense weight as the model's own layer would hold it, made anew: changing it changes nothing."""
        return self.quantized().dequantize()

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The dense weight `[outputs, inputs]`, kept weights in their places."""
        weight = self.quantized().dequantize(dtype)
        return weight.T if self.packing.out_axis else weight

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // self.in_features
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and rows <= _FEW_ROWS and self._prepare():
            flat = x.reshape(rows, self.in_features)
            y = self._multiply(flat).reshape(*x.shape[:-1], self.out_features)
            return y if self.bias is None else y + self.bias
        return functional.linear(x, self.dequantize(x.dtype), self.bias)

    def _multiply(self, x: Tensor) -> Tensor:
        """`x [rows, inputs]` through the kernel, the kept weights put right."""
        assert self._kernel is not None
        kind, weight, scales = self._kernel
        if kind == "int4":
            group = self.packing.scheme.blocks.size[0]
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(x, weight, group, scales)
        else:
            y = torch.ops.aten._weight_int8pack_mm(x, weight, scales)
        if self._kept is not None:
            outputs, inputs, missing = self._kept
            y.index_add_(1, outputs, x[:, inputs] * missing)
        return y

    def _prepare(self) -> bool:
        """Whether a kernel takes this layer; made ready at the first call, in the place of the packed codes."""
        if self._kernel is None and self._fits() is not None:
            quantized = self.quantized()
            kind = self._fits()
            made = _int4(quantized) if kind == "int4" else _int8(quantized)
            self._kernel = (str(kind), *made)
            self._kept = _missing(quantized)
        return self._kernel is not None

    def _fits(self) -> str | None:
        """The kernel for this layer, by its scheme and shape."""
        s = self.packing.scheme
        if self.packing.out_axis or s.paper_compat:
            return None
        if s.grid == "int8" and s.zero_point == "none" and s.blocks.kind == "channel":
            return "int8"
        groups = s.blocks.kind == "group" and s.blocks.size[0] in _GROUPS
        whole = groups and self.in_features % s.blocks.size[0] == 0 and self.out_features % _OUTPUTS == 0
        return "int4" if s.grid == "int4" and s.zero_point == "float" and whole else None


def _int4(quantized: Quantized) -> tuple[Tensor, Tensor]:
    """Codes as the kernel wants them, and `[groups, outputs, 2]` of scale and middle: w = (code - 8) scale + middle."""
    outputs = quantized.shape[0]
    codes = quantized.codes.reshape(outputs, -1).to(torch.int32)
    scale = quantized.blocks.scale()
    offsets = quantized.blocks.offsets
    assert offsets is not None
    middle = offsets.float() + 8 * scale
    both = torch.cat([scale, middle], 1).reshape(outputs, -1, 2).transpose(0, 1)
    weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return weight, both.contiguous().to(torch.bfloat16)


def _int8(quantized: Quantized) -> tuple[Tensor, Tensor]:
    """Codes `[outputs, inputs]` and scales `[outputs]`."""
    codes = quantized.codes.reshape(quantized.shape).to(torch.int8)
    return codes.contiguous(), quantized.blocks.scale().reshape(-1).to(torch.bfloat16)


def _missing(quantized: Quantized) -> tuple[Tensor, Tensor, Tensor] | None:
    """Output, input and `w - w_rounded` of each kept weight."""
    kept = quantized.kept
    if not len(kept):
        return None
    rounded = quantized.dequantize(torch.float32, kept=False)
    outputs, inputs = kept.indices.long().T
    missing = kept.values.float() - rounded[outputs, inputs]
    return outputs, inputs, missing.to(torch.bfloat16)
