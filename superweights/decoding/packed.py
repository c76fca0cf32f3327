"""The packed format of `superweights quantize`."""

from __future__ import annotations

from typing import Any

import torch

from superweights.checkpoint import Checkpoint
from superweights.decoding.decoded import Decoded, Format, Said, modules_with
from superweights.formats.packed.packing import PARTS, unpack


def packed(checkpoint: Checkpoint, said: Said) -> Format:
    """The format of a checkpoint that says `quant_method: superweights`; weights of Conv1D are `[inputs, outputs]`."""
    from superweights.formats.packed.loading import PackedConfig

    config: Any = PackedConfig(**said.settings)
    layers = config.packings()
    if config.stacked():
        raise said.refused("experts", "tells of packed experts, which are not decoded one by one")
    parts = modules_with(checkpoint, "codes", PARTS[1:])
    unnamed = [name for name in parts if name.removesuffix(".weight") not in layers]
    if unnamed:
        raise said.refused("layers", f"says nothing of {unnamed[0]}, so it is not read")

    def decode(name: str) -> Decoded:
        module = name.removesuffix(".weight")
        layer = layers[module]
        held = {
            part: checkpoint.read_stored(f"{module}.{part}")
            if f"{module}.{part}" in checkpoint.tensors
            else None
            for part in PARTS
        }
        dtype = getattr(torch, layer.dtype)
        quantized = unpack(held, layer.scheme, torch.Size(layer.shape), dtype, layer.out_axis)
        return Decoded(quantized.dequantize(torch.float32), quantized.steps())

    return Format("superweights", parts, decode)
