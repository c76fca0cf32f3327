"""HQQ: words unpacked and decoded by the package itself.

The settings of a layer are stored as tensors. They are read here and not by the package, whose own reader runs the
text of a dtype as Python.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint
from superweights.decoding.decoded import Decoded, Format, Said, modules_with
from superweights.errors import SuperweightsError

_NUMBERS = ("nbits", "group_size", "axis", "quant_zero", "quant_scale", "view_as_float")
_TEXTS = ("packing", "compute_dtype", "unpack_view_dtype")
_NEEDED = ("scale", "zero", "shape", "nbits", "axis", "packing")
_IGNORED = (
    "channel_wise",
    "optimize",
    "round_zero",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
)


def hqq(checkpoint: Checkpoint, said: Said) -> Format:
    """The format of a checkpoint that says `quant_method: hqq`, saved in safetensors by `HQQLinear.state_dict`."""
    said.known("hqq")
    others = dict.fromkeys((*_NEEDED, *_NUMBERS, *_TEXTS, *_IGNORED))
    parts = modules_with(checkpoint, "W_q", others)

    def decode(name: str) -> Decoded:
        try:
            from hqq.core.quantize import Quantizer  # type: ignore[import-not-found]
        except ImportError as error:
            raise SuperweightsError(
                f"{checkpoint.name} is quantized by HQQ, which decodes it.",
                hint="pip install 'superweights[quantizers]'.",
            ) from error
        module = name.removesuffix(".weight")
        held = {part.removeprefix(f"{module}."): checkpoint.read_stored(part) for part in parts[name]}
        meta = _meta(checkpoint, module, held)
        weight = Quantizer.dequantize(held["W_q"], meta)
        return Decoded(weight, _step(meta, weight))

    return Format("hqq", parts, decode)


def _meta(checkpoint: Checkpoint, module: str, held: dict[str, Tensor]) -> dict[str, Any]:
    """What HQQ calls the meta of a layer, out of its tensors."""
    missing = [part for part in _NEEDED if part not in held]
    if missing:
        raise SuperweightsError(
            f"{checkpoint.name} has no tensor '{module}.{missing[0]}', which hqq needs.",
            hint="scales that HQQ itself has rounded cannot be stored in safetensors; the file may be damaged.",
        )
    meta: dict[str, Any] = {
        "scale": held["scale"],
        "zero": held["zero"],
        "shape": torch.Size(held["shape"].tolist()),
    }
    meta |= {name: int(held[name]) if name in held else None for name in _NUMBERS}
    texts = {name: bytes(held[name].tolist()).decode() for name in _TEXTS if name in held}
    meta |= {name: _dtype(text, module) for name, text in texts.items() if name.endswith("dtype")}
    return {**meta, "packing": texts["packing"]}


def _dtype(text: str, module: str) -> torch.dtype:
    found = getattr(torch, text.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise SuperweightsError(f"{module} names {text!r}, which is no dtype.", hint="the file is damaged.")
    return found


def _step(meta: dict[str, Any], weight: Tensor) -> Tensor | None:
    """The scale at each weight: groups lie along the rows of the stored form (axis 1), or along its columns."""
    size, axis = meta["group_size"], meta["axis"]
    if size is None or weight.numel() % size:
        return None
    shape = (weight.numel() // size, size) if axis == 1 else (size, weight.numel() // size)
    return meta["scale"].float().expand(shape).reshape(weight.shape).abs()
