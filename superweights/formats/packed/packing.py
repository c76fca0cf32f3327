"""A rounded tensor as the few tensors that a file stores, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from superweights.quantization.cutting import cut
from superweights.quantization.fit import Fitted
from superweights.quantization.grids import Integers, grid_of
from superweights.quantization.published import published_blocks
from superweights.quantization.scheme import Scheme
from superweights.quantization.tensor import Kept, Quantized

# Names of the parts, after the module's own.
PARTS = ("codes", "scales", "offsets", "zero_points", "tensor_scale", "kept_indices", "kept_values")


def pack(quantized: Quantized) -> dict[str, torch.Tensor]:
    """The parts of `quantized`: `codes` packed to the bit `[bytes]`, and what its blocks store."""
    blocks, kept = quantized.blocks, quantized.kept
    parts = {
        "codes": pack_bits(_unsigned(quantized.codes, quantized.scheme), quantized.scheme.bits),
        "scales": blocks.scales,
        "offsets": blocks.offsets,
        "zero_points": blocks.zero_points,
        "tensor_scale": None if blocks.tensor_scale is None else torch.tensor(blocks.tensor_scale),
        "kept_indices": kept.indices if len(kept) else None,
        "kept_values": kept.values if len(kept) else None,
    }
    return {name: part for name, part in parts.items() if part is not None}


def unpack(
    parts: Mapping[str, torch.Tensor | None],
    scheme: Scheme,
    shape: torch.Size,
    dtype: torch.dtype,
    out_axis: int,
) -> Quantized:
    """The rounded tensor whose `pack` is `parts`, on their device."""
    blocks = block_shape(scheme, shape, out_axis)
    packed, scales = parts["codes"], parts["scales"]
    assert packed is not None, "every packed tensor has codes"
    assert scales is not None, "every packed tensor has scales"
    codes = unpack_bits(packed, scheme.bits, blocks.numel()).reshape(blocks)
    grid = grid_of(scheme)
    if isinstance(grid, Integers) and grid.low < 0:
        codes = (codes.to(torch.int16) + int(grid.low)).to(torch.int8)
    indices, values, scale = parts.get("kept_indices"), parts.get("kept_values"), parts.get("tensor_scale")
    if indices is None or values is None:
        indices = torch.empty(0, len(shape), dtype=torch.int32, device=packed.device)
        values = torch.empty(0, dtype=dtype, device=packed.device)
    fitted = Fitted(
        scales, parts.get("offsets"), parts.get("zero_points"), None if scale is None else float(scale)
    )
    return Quantized(scheme, shape, dtype, out_axis, codes, fitted, Kept(indices, values))


def block_shape(scheme: Scheme, shape: torch.Size, out_axis: int) -> torch.Size:
    """`[blocks, elements]` of a tensor of `shape`, padding included."""
    blocks = published_blocks(shape, scheme) if scheme.paper_compat else scheme.blocks
    return cut(torch.empty(shape, device="meta"), blocks, out_axis).shape


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """`codes`, each below 2^`bits`, one after the other in bytes, the first in the lowest bits: uint8 `[bytes]`."""
    flat = codes.reshape(-1).to(torch.uint8)
    if bits == 8:
        return flat
    if 8 % bits == 0:
        per_byte = 8 // bits
        columns = torch.nn.functional.pad(flat, (0, -len(flat) % per_byte)).reshape(-1, per_byte)
        packed = columns[:, 0].clone()
        for place in range(1, per_byte):
            packed |= columns[:, place] << (place * bits)
        return packed
    every_bit = np.unpackbits(flat.cpu().numpy()[:, None], axis=1, bitorder="little", count=bits)
    return torch.from_numpy(np.packbits(every_bit.reshape(-1), bitorder="little"))


def unpack_bits(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The `count` codes that `pack_bits` packed: uint8 `[count]`."""
    if bits == 8:
        return packed[:count]
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        return ((packed[:, None] >> shifts) & (2**bits - 1)).reshape(-1)[:count]
    every_bit = np.unpackbits(packed.cpu().numpy(), bitorder="little", count=count * bits)
    codes = np.packbits(every_bit.reshape(count, bits), axis=1, bitorder="little")[:, 0]
    return torch.from_numpy(codes).to(packed.device)


def _unsigned(codes: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Codes from 0."""
    grid = grid_of(scheme)
    if isinstance(grid, Integers) and grid.low < 0:
        return codes.to(torch.int16) - int(grid.low)
    return codes
