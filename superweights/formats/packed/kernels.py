"""Weights in the form of CPU kernels, ours or torch's own, and back: a packed layer holds them in this form alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from superweights.formats.packed.native import NativeInt4
from superweights.quantization.tensor import Quantized

# torch's int4 kernel takes these group sizes, and packs outputs in panels of so many.
GROUPS, PANEL = (32, 64, 128, 256), 64
# With more rows than this at once it is faster to dequantize the weights and multiply matrices (one core with AVX-512
# and AMX, 1,536 x 576 weights: both kernels take 28 microseconds a row, dequantizing int4 2.0 ms, int8 0.5).
_FEW_ROWS_INT4, _FEW_ROWS_INT8 = 64, 16


@dataclass
class Int4:
    """`codes` as `_convert_weight_to_int4pack_for_cpu` packs them, `both` `[groups, outputs, 2]` of scale and middle.

    A weight is (code - 8) scale + middle.
    """

    codes: Tensor
    both: Tensor
    group: int

    @classmethod
    def of(cls, quantized: Quantized, dtype: torch.dtype) -> Int4:
        """From a matrix with float offsets in whole groups."""
        outputs = quantized.shape[0]
        scale, offsets = quantized.blocks.scale(), quantized.blocks.offsets
        assert offsets is not None, "fits() has looked"
        both = torch.cat([scale, offsets.float() + 8 * scale], 1).reshape(outputs, -1, 2).transpose(0, 1)
        codes = quantized.codes.reshape(outputs, -1).to(torch.int32)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        return cls(packed, both.contiguous().to(dtype), quantized.scheme.blocks.size[0])

    def takes(self, x: Tensor) -> bool:
        """Whether the kernel is the faster way. In float32 it has no vector instructions."""
        return x.dtype == torch.bfloat16 == self.both.dtype and len(x) <= _FEW_ROWS_INT4

    def multiply(self, x: Tensor) -> Tensor:
        """`x [rows, inputs]` times the transposed weights, by the kernel."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.codes, self.group, self.both)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weights `[outputs, inputs]`."""
        groups, outputs, _ = self.both.shape
        panels = outputs // PANEL
        stored = self.codes.view(panels, groups, self.group, PANEL // 2)
        weight = torch.empty(panels, groups, self.group, PANEL, dtype=dtype, device=stored.device)
        # minus 8 while they are bytes, and one pass for the rest: scale and middle made contiguous first, because in
        # their strided form that pass takes eight times as long
        weight[..., : PANEL // 2] = (stored & 15).view(torch.int8) - 8
        weight[..., PANEL // 2 :] = (stored >> 4).view(torch.int8) - 8
        scale, middle = (
            self.both.to(dtype).view(groups, panels, 1, PANEL, 2).permute(4, 1, 0, 2, 3).contiguous()
        )
        torch.addcmul(middle, weight, scale, out=weight)
        return weight.view(panels, -1, PANEL).transpose(1, 2).reshape(outputs, -1)


@dataclass
class Int8:
    """`codes` `[outputs, inputs]` and `scales` `[outputs]`."""

    codes: Tensor
    scales: Tensor

    @classmethod
    def of(cls, quantized: Quantized, dtype: torch.dtype) -> Int8:
        """From a matrix that is symmetric by output channel."""
        codes = quantized.codes.reshape(quantized.shape).to(torch.int8)
        return cls(codes.contiguous(), quantized.blocks.scale().reshape(-1).to(dtype))

    def takes(self, x: Tensor) -> bool:
        """Whether the kernel is the faster way."""
        return x.dtype == torch.bfloat16 == self.scales.dtype and len(x) <= _FEW_ROWS_INT8

    def multiply(self, x: Tensor) -> Tensor:
        """`x [rows, inputs]` times the transposed weights, by the kernel."""
        return torch.ops.aten._weight_int8pack_mm(x, self.codes, self.scales)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weights `[outputs, inputs]`."""
        return self.codes.to(dtype).mul_(self.scales.to(dtype)[:, None])


Kernel = NativeInt4 | Int4 | Int8


def kernel_of(quantized: Quantized, dtype: torch.dtype) -> Kernel | None:
    """The matrix in the form of the kernel for its scheme and shape, ours before torch's; None where there is none."""
    scheme = quantized.scheme
    if quantized.out_axis or scheme.paper_compat or quantized.codes.device.type != "cpu":
        return None
    if scheme.grid == "int8" and scheme.zero_point == "none" and scheme.blocks.kind == "channel":
        return Int8.of(quantized, dtype)
    native = NativeInt4.of(quantized)
    if native is not None:
        return native
    outputs, inputs = quantized.shape
    groups = scheme.blocks.kind == "group" and scheme.blocks.size[0] in GROUPS
    whole = groups and inputs % scheme.blocks.size[0] == 0 and outputs % PANEL == 0
    if scheme.grid == "int4" and scheme.zero_point == "float" and whole and _layout_is_known():
        return Int4.of(quantized, dtype)
    return None


@cache
def _layout_is_known() -> bool:
    """Whether torch packs here as `Int4.dequantize` unpacks: its layout depends on the processor and is no promise."""
    codes = torch.randint(16, (2 * PANEL, 64), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    both = torch.tensor([1.0, 8.0]).expand(2, 2 * PANEL, 2).contiguous()
    return torch.equal(Int4(packed, both, 32).dequantize(torch.float32), codes.float())
