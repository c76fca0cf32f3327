"""AWQ: words of eight outputs in an order of their own, `[inputs, outputs / 8]`.

Source: AutoAWQ 0.2.9, `utils/packing_utils.py` (`dequantize_gemm`), with which the tests compare. It is no longer
kept and cannot be imported beside current transformers, so its rule is written here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint
from superweights.decoding.decoded import Decoded, Format, Said, modules_with, stored
from superweights.decoding.words import unpack_words
from superweights.errors import SuperweightsError

# The place of each output in a word of eight (awq/modules/linear/gemm.py, `order_map`).
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def awq(checkpoint: Checkpoint, said: Said) -> Format:
    """The format of a checkpoint that says `quant_method: awq`.

    `zero_point: false` is not believed: AutoRound writes symmetric weights with it, and their zero points beside them.
    """
    said.known("awq", "auto-round settings")
    said.inert("rotation", "adapter", "dynamic")
    for name in ("version", "format", "checkpoint_format"):
        if str(said.settings.get(name) or "gemm").lower() != "gemm":
            raise said.refused(name, "cannot be read: only the GEMM layout can")
    if said.whole("bits", "w_bit") != 4:
        raise said.refused("bits", "cannot be read: AWQ has 4 bits")
    parts = modules_with(checkpoint, "qweight", ("qzeros", "scales"))
    return Format("awq", parts, lambda name: decode_awq(checkpoint, name.removesuffix(".weight")))


def decode_awq(checkpoint: Checkpoint, module: str) -> Decoded:
    """The module's weight, float32 `[outputs, inputs]`."""
    codes = _in_order(unpack_words(stored(checkpoint, module, "qweight", "AWQ"), 4))
    zeros = _in_order(unpack_words(stored(checkpoint, module, "qzeros", "AWQ"), 4))
    scales = stored(checkpoint, module, "scales", "AWQ").float()
    inputs, outputs = codes.shape
    if scales.shape != zeros.shape or scales.shape[1] != outputs or not len(scales) or inputs % len(scales):
        raise SuperweightsError(
            f"{module} in {checkpoint.name} is not stored as awq stores it: scales {list(scales.shape)} and zero "
            f"points {list(zeros.shape)} for {inputs} inputs and {outputs} outputs.",
            hint="the file is damaged, or its config is another's.",
        )
    group = torch.arange(inputs) // (inputs // len(scales))
    step = scales[group]
    return Decoded(((codes.float() - zeros.float()[group]) * step).T, step.abs().T)


def _in_order(codes: Tensor) -> Tensor:
    words = codes.reshape(len(codes), -1, 8)
    ordered = torch.empty_like(words)
    ordered[..., list(_ORDER)] = words
    return ordered.flatten(-2)
