"""Rounded matrices in llama.cpp's blocks, bit by bit.

Source: ggml-common.h (`block_q8_0` to `block_iq4_xs`, `block_mxfp4`) and ggml-quants.c (`quantize_row_*`), for the
place of each bit; ggml's own decoders read them back in the tests.
"""

from __future__ import annotations

import numpy as np
import torch

from superweights.errors import SuperweightsError
from superweights.quantization.scheme import Scheme
from superweights.quantization.tensor import Quantized

# The code of zero, where codes are stored from 0 on.
_MIDDLE = {"Q4_0": 8, "Q5_0": 16}
# The type that holds a scheme: grid, zero point, anchor, inputs to a scale, dtype of the scales.
TYPES = {
    ("int8", "none", "absolute", 32, "float16"): "Q8_0",
    ("int4", "none", "signed", 32, "float16"): "Q4_0",
    ("int4", "float", "absolute", 32, "float16"): "Q4_1",
    ("int5", "none", "signed", 32, "float16"): "Q5_0",
    ("int5", "float", "absolute", 32, "float16"): "Q5_1",
    ("iq4_nl", "none", "signed", 32, "float16"): "IQ4_NL",
    ("mxfp4", "none", "absolute", 32, "float16"): "MXFP4",
    ("int3", "none", "signed", 16, "super"): "Q3_K",
    ("int4", "float", "absolute", 32, "super"): "Q4_K",
    ("int5", "float", "absolute", 32, "super"): "Q5_K",
    ("int6", "none", "signed", 16, "super"): "Q6_K",
    ("iq4_nl", "none", "signed", 32, "super"): "IQ4_XS",
}


def type_of(name: str, scheme: Scheme, shape: tuple[int, ...], out_axis: int) -> str:
    """The type that holds this scheme. Raises where llama.cpp has none."""
    size = scheme.blocks.size[0] if scheme.blocks.kind == "group" else 0
    kind = TYPES.get((scheme.grid, scheme.zero_point, scheme.anchor, size, scheme.scale_dtype))
    whole = 256 if scheme.scale_dtype == "super" else 32
    if kind is None or len(shape) != 2 or shape[1] % whole or out_axis or scheme.paper_compat:
        raise SuperweightsError(
            f"{name}: no type of llama.cpp's holds {scheme} on {list(shape)}.",
            hint="int8 symmetric (Q8_0), int4 and int5 symmetric with a signed anchor (Q4_0, Q5_0) or with a float "
            "zero point (Q4_1, Q5_1), iq4_nl and mxfp4, in groups of 32, are held number by number; with scales of "
            '"super", in multiples of 256 inputs, int3 (Q3_K), int4 (Q4_K), int5 (Q5_K), int6 (Q6_K) and iq4_nl '
            "(IQ4_XS).",
        )
    return kind


def encode(quantized: Quantized) -> np.ndarray:
    """The matrix in llama.cpp's blocks, bytes `[outputs, bytes of a row]`."""
    kind = type_of("", quantized.scheme, tuple(quantized.shape), quantized.out_axis)
    outputs = quantized.shape[0]
    if quantized.blocks.doubled is not None:
        return _SUPER[kind](quantized).reshape(outputs, -1)
    codes = quantized.codes.numpy()
    scale = quantized.scales
    if kind == "MXFP4":
        return np.hstack([scale.view(torch.uint8).numpy(), _halves(codes)]).reshape(outputs, -1)
    held = [_bytes(scale.to(torch.float16))]
    if quantized.blocks.offsets is not None:
        held.append(_bytes(quantized.blocks.offsets.to(torch.float16)))
    if kind == "Q8_0":
        return np.hstack([*held, codes.view(np.uint8)]).reshape(outputs, -1)
    unsigned = (codes.astype(np.int16) + _MIDDLE.get(kind, 0)).astype(np.uint8)
    if kind in ("Q5_0", "Q5_1"):
        held.append(np.packbits(unsigned >> 4, axis=1, bitorder="little"))
    return np.hstack([*held, _halves(unsigned & 15)]).reshape(outputs, -1)


def _bytes(values: torch.Tensor) -> np.ndarray:
    """float16 `[blocks, n]` as bytes."""
    return np.ascontiguousarray(values.numpy()).view(np.uint8)


def _halves(codes: np.ndarray) -> np.ndarray:
    """4-bit codes `[blocks, n]`: the first half of a block in the low bits, the second in the high ones."""
    half = codes.shape[1] // 2
    return codes[:, :half] | (codes[:, half:] << 4)


def _parts(quantized: Quantized, low: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes from 0 `[super-blocks, 256]`, bases as bytes, multiples `[super-blocks, blocks, kinds]`."""
    doubled = quantized.blocks.doubled
    assert doubled is not None, "encode has looked"
    codes = (quantized.codes.numpy().astype(np.int16) - low).astype(np.uint8).reshape(-1, 256)
    multiples = doubled.multiples.numpy().reshape(len(codes), -1, doubled.multiples.shape[1])
    return codes, _bytes(doubled.bases), multiples


def _six_bit_pairs(multiples: np.ndarray) -> np.ndarray:
    """Eight scales and eight depths of six bits in twelve bytes."""
    scale, depth = (multiples[:, :, kind].astype(np.uint8) for kind in (0, 1))
    low = [scale[:, :4] | ((scale[:, 4:] >> 4) << 6), depth[:, :4] | ((depth[:, 4:] >> 4) << 6)]
    return np.hstack([*low, (scale[:, 4:] & 15) | ((depth[:, 4:] & 15) << 4)])


def _q4_k(quantized: Quantized) -> np.ndarray:
    codes, bases, multiples = _parts(quantized, 0)
    chunks = codes.reshape(-1, 4, 2, 32)
    nibbles = (chunks[:, :, 0] | (chunks[:, :, 1] << 4)).reshape(len(codes), 128)
    return np.hstack([bases, _six_bit_pairs(multiples), nibbles])


def _q5_k(quantized: Quantized) -> np.ndarray:
    codes, bases, multiples = _parts(quantized, 0)
    chunks = codes.reshape(-1, 4, 2, 32)
    nibbles = ((chunks[:, :, 0] & 15) | ((chunks[:, :, 1] & 15) << 4)).reshape(len(codes), 128)
    fifth = np.packbits((codes >> 4).reshape(-1, 8, 32), axis=1, bitorder="little").reshape(len(codes), 32)
    return np.hstack([bases, _six_bit_pairs(multiples), fifth, nibbles])


def _q6_k(quantized: Quantized) -> np.ndarray:
    codes, bases, multiples = _parts(quantized, -32)
    quarters = codes.reshape(-1, 2, 4, 32)
    low = quarters & 15
    nibbles = np.concatenate([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], 2)
    high = quarters >> 4
    pairs = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    scales = multiples[:, :, 0].astype(np.int8).view(np.uint8)
    return np.hstack([nibbles.reshape(-1, 128), pairs.reshape(-1, 64), scales, bases])


def _q3_k(quantized: Quantized) -> np.ndarray:
    codes, bases, multiples = _parts(quantized, -4)
    third = np.packbits((codes >> 2).reshape(-1, 8, 32), axis=1, bitorder="little").reshape(len(codes), 32)
    low = (codes & 3).reshape(-1, 2, 4, 32)
    pairs = low[:, :, 0] | (low[:, :, 1] << 2) | (low[:, :, 2] << 4) | (low[:, :, 3] << 6)
    scale = (multiples[:, :, 0] + 32).astype(np.uint8)
    nibbles = (scale[:, :8] & 15) | ((scale[:, 8:] & 15) << 4)
    high = (scale >> 4).reshape(-1, 4, 4)
    tops = high[:, 0] | (high[:, 1] << 2) | (high[:, 2] << 4) | (high[:, 3] << 6)
    return np.hstack([third, pairs.reshape(-1, 64), nibbles, tops, bases])


def _iq4_xs(quantized: Quantized) -> np.ndarray:
    codes, bases, multiples = _parts(quantized, 0)
    scale = (multiples[:, :, 0] + 32).astype(np.uint16)
    shifts = 2 * np.arange(8, dtype=np.uint16)
    high = ((scale[:, :8] >> 4) << shifts).sum(axis=1).astype(np.uint16)
    low = ((scale[:, ::2] & 15) | ((scale[:, 1::2] & 15) << 4)).astype(np.uint8)
    nibbles = _halves(codes.reshape(-1, 32)).reshape(len(codes), 128)
    return np.hstack([bases, high[:, None].view(np.uint8), low, nibbles])


_SUPER = {"Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_XS": _iq4_xs}
