"""Eight-bit floating-point codes with scales beside them: per tensor, per channel, per block.

The rule is the same in DeepSeek's, NVIDIA ModelOpt's, FBGEMM's and AutoFP8's files: a weight is its code times the
scale of its block. Blocks that divide the matrix are decoded by transformers' own operation (5.23,
`integrations.finegrained_fp8.Fp8Dequantize`), which refuses ragged ones; those follow its backward pass
(`_dequantize_fp8_weight`) and are compared with it in the tests.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint
from superweights.checkpoint.codes import scale_beside
from superweights.decoding.decoded import Decoded, Format, Said
from superweights.errors import SuperweightsError

# NVIDIA ModelOpt's names of the schemes whose codes are float8 with scales beside them, or NVFP4.
_ALGORITHMS = (
    "FP8",
    "FP8_PB_WO",
    "FP8_PB_REAL",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "NVFP4",
    "MIXED_PRECISION",
    "MXFP8",
)


def float8(checkpoint: Checkpoint, said: Said) -> Format:
    """The format of a checkpoint whose float8 (or NVFP4) weights have their scales beside them."""
    said.known("float8")
    said.inert("pre_quant_scale", "has_zero_point")
    algorithm = said.settings.get("quant_algo")
    if algorithm is not None and algorithm not in _ALGORITHMS:
        raise said.refused("quant_algo", "cannot be read")
    if str(said.settings.get("fmt") or "e4m3") not in ("e4m3", "e5m2", "float8_e4m3fn", "float8_e5m2"):
        raise said.refused("fmt", "cannot be read")
    parts = {}
    for name in checkpoint.tensors:
        scale = scale_beside(checkpoint.tensors, name)
        if scale is not None:
            second = f"{name}_scale_2"
            parts[name] = (
                (name, scale, second) if second in checkpoint.tensors and second != scale else (name, scale)
            )
    block = said.settings.get("weight_block_size")

    def decode(name: str) -> Decoded:
        codes, scale = (checkpoint.read_stored(each) for each in parts[name][:2])
        if codes.dtype == torch.uint8:
            return _nvfp4(checkpoint, parts[name], codes, scale, said)
        if codes.dtype == torch.int8 and not scale.dtype.is_floating_point:
            raise _unknown(checkpoint, parts[name], codes, scale)
        return Decoded(_times_scale(checkpoint, parts[name], codes, scale, block))

    return Format(said.method, parts, decode)


def _times_scale(
    checkpoint: Checkpoint, names: tuple[str, ...], codes: Tensor, scale: Tensor, block: object
) -> Tensor:
    """float32 weights in the codes' shape."""
    if codes.dtype == torch.int8 or codes.dim() < 2:
        raise _unknown(checkpoint, names, codes, scale)
    if scale.dtype == torch.uint8:  # E8M0 exponents kept as bytes (MXFP8)
        scale = scale.view(torch.float8_e8m0fnu)
    scale, (rows, columns) = scale.float(), codes.shape[-2:]
    if scale.numel() == 1:
        scale = scale.reshape(1, 1)
    elif scale.dim() == 1 and codes.dim() == 2 and len(scale) == rows:
        scale = scale[:, None]
    elif scale.dim() == 1 and codes.dim() == 3 and len(scale) == len(codes):
        scale = scale[:, None, None]
    if scale.dim() not in (2, codes.dim()) or (scale.dim() == 3 and len(scale) != len(codes)):
        raise _unknown(checkpoint, names, codes, scale)
    tall, wide = scale.shape[-2:]
    told = block if isinstance(block, list | tuple) and len(block) == 2 else None
    if told and tall * wide > 1 and (rows, columns) != (tall * told[0], wide * told[1]):
        if (tall, wide) != (math.ceil(rows / told[0]), math.ceil(columns / told[1])):
            raise _unknown(checkpoint, names, codes, scale)
        spread = scale.repeat_interleave(told[0], -2)[..., :rows, :]
        return codes.float() * spread.repeat_interleave(told[1], -1)[..., :columns]
    if rows % tall or columns % wide:
        raise _unknown(checkpoint, names, codes, scale)
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    made = Fp8Dequantize(None).convert({"weight": codes, "weight_scale_inv": scale})["weight"]
    assert isinstance(made, Tensor), "one weight in, one out"
    return made


def _nvfp4(
    checkpoint: Checkpoint, names: tuple[str, ...], codes: Tensor, scale: Tensor, said: Said
) -> Decoded:
    """NVIDIA ModelOpt's NVFP4: two E2M1 numbers a byte, E4M3 scales of 16 inputs, one float32 scale.

    Source: NVIDIA ModelOpt, `NVFP4QTensor.dequantize`. The numbers are unpacked by compressed-tensors, whose format of
    the same name keeps the reciprocal of the last scale.
    """
    if (
        len(names) < 3
        or scale.dtype != torch.float8_e4m3fn
        or codes.dim() != 2
        or scale.shape[1] * 8 != codes.shape[1]
    ):
        raise _unknown(checkpoint, names, codes, scale)
    try:
        from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    except ImportError as error:
        raise SuperweightsError(
            f"{names[0]} is NVFP4, which compressed-tensors unpacks.",
            hint="pip install 'superweights[formats]'.",
        ) from error
    rows, half = codes.shape
    steps = (scale.float() * checkpoint.read_stored(names[2]).float()).repeat_interleave(16, 1)
    return Decoded(unpack_fp4_from_uint8(codes, rows, 2 * half, dtype=torch.float32) * steps)


def _unknown(
    checkpoint: Checkpoint, names: tuple[str, ...], codes: Tensor, scale: Tensor
) -> SuperweightsError:
    return SuperweightsError(
        f"{names[0]} in {checkpoint.name} ({str(codes.dtype)[6:]} {list(codes.shape)}) has scales {names[1]} of "
        f"{list(scale.shape)}, and no rule is known by which they multiply it.",
        hint="one scale, one per output channel, or one per block that config.json tells can be read.",
    )
