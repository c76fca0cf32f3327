"""Formats of single architectures that transformers decodes: gpt-oss's MXFP4 experts, BitNet's ternary words."""

from __future__ import annotations

import torch

from superweights.checkpoint import Checkpoint
from superweights.decoding.decoded import Decoded, Format, Said, modules_with, stored
from superweights.errors import SuperweightsError


def mxfp4(checkpoint: Checkpoint, said: Said) -> Format:
    """gpt-oss: `NAME_blocks` `[experts, outputs, groups, 16]` with `NAME_scales`, as `[experts, inputs, outputs]`."""
    said.known("mxfp4")
    parts = {
        name.removesuffix("_blocks"): (name, name.removesuffix("_blocks") + "_scales")
        for name in checkpoint.tensors
        if name.endswith("_blocks")
    }

    def decode(name: str) -> Decoded:
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        blocks, scales = (checkpoint.read_stored(part) for part in parts[name])
        return Decoded(convert_moe_packed_tensors(blocks, scales))

    return Format("mxfp4", parts, decode)


def bitnet(checkpoint: Checkpoint, said: Said) -> Format:
    """BitNet: four ternary numbers a byte, one scale a matrix; it divides, and for `autobitlinear` it multiplies.

    Source: transformers, `integrations/bitnet.py`: `unpack_weights` is called; `BitLinear.post_quant_process` divides
    by the scale, `AutoBitLinear.forward` multiplies.
    """
    said.known("bitnet")
    kind = said.settings.get("linear_class", "bitlinear")
    if kind not in ("bitlinear", "autobitlinear"):
        raise said.refused("linear_class", "cannot be read")
    if said.settings.get("quantization_mode", "offline") != "offline":
        raise said.refused(
            "quantization_mode",
            "rounds while the model runs, and the file holds the weights before it, so it is not read",
        )
    parts = {
        name: held
        for name, held in modules_with(checkpoint, "weight", ("weight_scale",)).items()
        if len(held) > 1
    }

    def decode(name: str) -> Decoded:
        from transformers.integrations.bitnet import unpack_weights

        module = name.removesuffix(".weight")
        codes = stored(checkpoint, module, "weight", "bitnet")
        scale = stored(checkpoint, module, "weight_scale", "bitnet").float()
        if codes.dtype != torch.uint8 or scale.numel() != 1:
            raise SuperweightsError(
                f"{name} in {checkpoint.name} is not stored as bitnet stores it: {codes.dtype} with {scale.numel()} "
                "scales.",
                hint="the file is damaged, or its config is another's.",
            )
        plain = getattr(unpack_weights, "_torchdynamo_orig_callable", unpack_weights)
        ternary = plain(codes, torch.float32)
        weight = ternary / scale if kind == "bitlinear" else ternary * scale
        return Decoded(
            weight, torch.full_like(weight, float((1 / scale if kind == "bitlinear" else scale).abs()))
        )

    return Format("bitnet", parts, decode)
