"""bitsandbytes: nf4 and fp4 by the package's own functions, int8 as its rows' scales tell."""

from __future__ import annotations

import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint
from superweights.decoding.decoded import Decoded, Format, Said, stored
from superweights.errors import SuperweightsError

_ROWS = "SCB"


def bitsandbytes(checkpoint: Checkpoint, said: Said) -> Format:
    """The format of a checkpoint that says `quant_method: bitsandbytes`."""
    said.known("bitsandbytes")
    said.inert("bnb_4bit_target_parameters", "target_parameters")
    parts: dict[str, tuple[str, ...]] = {}
    for name in checkpoint.tensors:
        weight, marked, _ = name.partition(".quant_state.")
        module = name.removesuffix(f".{_ROWS}")
        if marked:
            held = (each for each in checkpoint.tensors if each.startswith(f"{weight}."))
            parts[weight] = (weight, *held)
        elif module != name:
            parts[f"{module}.weight"] = (f"{module}.weight", name)

    def decode(name: str) -> Decoded:
        if name.endswith(".weight") and parts[name][-1].endswith(f".{_ROWS}"):
            return _int8(checkpoint, name.removesuffix(".weight"))
        return _four_bits(checkpoint, name, parts[name][1:])

    return Format("bitsandbytes", parts, decode)


def _int8(checkpoint: Checkpoint, module: str) -> Decoded:
    """A weight is its code times the largest value of its row over 127.

    Source: bitsandbytes, `functional.int8_vectorwise_dequant`, whose arithmetic this is in float32.
    """
    codes, rows = (stored(checkpoint, module, part, "bitsandbytes") for part in ("weight", _ROWS))
    layout = f"{module}.weight_format"
    if layout in checkpoint.tensors and int(checkpoint.read_stored(layout)) != 0:
        raise SuperweightsError(
            f"{layout} in {checkpoint.name} tells a layout of codes other than by rows, which cannot be read here.",
            hint="save the model again with a current bitsandbytes.",
        )
    if codes.dtype != torch.int8 or rows.shape != codes.shape[:1]:
        raise SuperweightsError(
            f"{module} in {checkpoint.name} is not stored as bitsandbytes stores it: codes {codes.dtype} "
            f"{list(codes.shape)} with scales {list(rows.shape)}.",
            hint="the file is damaged.",
        )
    scale = rows.float().view(-1, 1)
    return Decoded(codes * scale * 7.874015718698502e-3, (scale / 127).expand(codes.shape))


def _four_bits(checkpoint: Checkpoint, name: str, parts: tuple[str, ...]) -> Decoded:
    try:
        from bitsandbytes.functional import QuantState, dequantize_4bit  # type: ignore[import-not-found]
    except ImportError as error:
        raise SuperweightsError(
            f"{checkpoint.name} is quantized by bitsandbytes, whose tables are in that package.",
            hint="pip install 'superweights[quantizers]'.",
        ) from error
    held = {part: checkpoint.read_stored(part).clone() for part in parts}
    state = QuantState.from_dict(held, torch.device("cpu"))
    codes: Tensor = checkpoint.read_stored(name).view(torch.uint8)
    return Decoded(dequantize_4bit(codes, state))
