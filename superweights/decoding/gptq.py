"""GPTQ: words of 32 bits along the inputs, scales and zero points by group, groups in any order.

Source: AutoGPTQ, `qlinear_cuda.py` (`pack`, `forward`), and GPTQModel 7.7, `utils/model_dequant.py`, with which the
tests compare. Its own code is not called: installing it takes a compiler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint
from superweights.decoding.decoded import Decoded, Format, Said, modules_with, stored
from superweights.decoding.words import unpack_words
from superweights.errors import SuperweightsError

# How zero points are stored: version 2 as they are, version 1 less one.
Zeros = Literal["as they are", "less one", "less one in each word"]

_PARTS = ("qzeros", "scales", "g_idx")
_BITS = (2, 3, 4, 8)


def gptq(checkpoint: Checkpoint, said: Said) -> Format:
    """The format of a checkpoint that says `quant_method: gptq`."""
    said.known("gptq", "auto-round settings")
    said.inert("rotation", "adapter")
    version = _version(said)
    if said.settings.get("pack_dtype", "int32") != "int32":
        raise said.refused("pack_dtype", "cannot be read")
    parts = modules_with(checkpoint, "qweight", _PARTS)
    zeros: Zeros = (
        "as they are" if version == "gptq_v2" else "less one in each word" if _by_word(said) else "less one"
    )

    def decode(name: str) -> Decoded:
        module = name.removesuffix(".weight")
        bits, size = _bits_of(module, said)
        return decode_gptq(checkpoint, module, bits, size, zeros=zeros)

    return Format("gptq", parts, decode)


def decode_gptq(checkpoint: Checkpoint, module: str, bits: int, group_size: int, *, zeros: Zeros) -> Decoded:
    """The module's weight, float32 `[outputs, inputs]`, its zero points stored as `zeros` says."""
    if bits not in _BITS:
        raise SuperweightsError(
            f"{module} in {checkpoint.name} has {bits} bits, which GPTQ packs in ways of their own.",
            hint=f"{', '.join(map(str, _BITS))} bits can be read.",
        )
    scales = stored(checkpoint, module, "scales", "GPTQ").float()
    groups, outputs = scales.shape
    codes = unpack_words(stored(checkpoint, module, "qweight", "GPTQ").T, bits).T
    zero = _zero_points(stored(checkpoint, module, "qzeros", "GPTQ"), bits, zeros)
    if codes.shape[1] != outputs or len(zero) != groups or not 0 <= zero.shape[1] - outputs < 32:
        raise _contradiction(checkpoint, module, bits, groups, outputs)
    zero = zero[:, :outputs]
    group = _groups(checkpoint, module, codes, group_size, groups)
    codes = codes[: len(group)]
    step = scales[group]
    weight = (codes.float() - zero.float()[group]) * step
    return Decoded(weight.T, step.abs().T)


def _zero_points(words: Tensor, bits: int, how: Zeros) -> Tensor:
    """The zero points `[groups, outputs]`, uint8."""
    if how == "less one in each word" and 32 % bits == 0:
        ones = sum(1 << place for place in range(0, 32, bits))
        return unpack_words((words.long() + ones) & 0xFFFFFFFF, bits)
    zero = unpack_words(words, bits)
    return zero if how == "as they are" else (zero + 1) & (2**bits - 1)


def _by_word(said: Said) -> bool:
    """Whether GPTQModel has written this: it takes one from every zero point of a word at once, so that a zero point
    of 0 borrows from its neighbour (7.7, `convert_gptq_v2_to_v1_format_module`). All others count each modulo 2^bits.
    """
    meta = said.settings.get("meta") or {}
    writers = meta.get("quantizer", ()) if isinstance(meta, Mapping) else ()
    writers = [writers] if isinstance(writers, str) else writers
    return any(str(each).lower().startswith("gptqmodel") for each in writers)


def _groups(checkpoint: Checkpoint, module: str, codes: Tensor, size: int, groups: int) -> Tensor:
    """The group of each input: as `g_idx` says, else in runs of `size`."""
    if f"{module}.g_idx" in checkpoint.tensors:
        group = stored(checkpoint, module, "g_idx", "GPTQ").long()
    else:
        inputs = torch.arange(len(codes))
        group = inputs // size if size > 0 else torch.zeros_like(inputs)
    if not 0 <= len(codes) - len(group) < 32 or (
        len(group) and not 0 <= int(group.min()) <= int(group.max()) < groups
    ):
        raise SuperweightsError(
            f"{module}.g_idx in {checkpoint.name} names groups that {module}.scales does not have.",
            hint="the file is damaged, or its config is another's.",
        )
    return group


def _version(said: Said) -> str:
    told = [
        (name, str(said.settings[name]))
        for name in ("checkpoint_format", "format")
        if said.settings.get(name)
    ]
    if len({value for _, value in told}) > 1:
        raise said.refused(
            "format", f"contradicts checkpoint_format = {told[0][1]!r}, so that it cannot be read"
        )
    for name, value in told:
        if value not in ("gptq", "gptq_v2"):
            raise said.refused(name, "cannot be read")
    return told[0][1] if told else "gptq"


def _bits_of(module: str, said: Said) -> tuple[int, int]:
    """Bits and group size of a module: those of the first rule of `dynamic` that matches it, else the general ones."""
    general = said.whole("bits"), said.settings.get("group_size", -1)
    rules: Mapping[str, Any] = said.settings.get("dynamic") or {}
    for pattern, rule in rules.items():
        negative, plain = pattern.startswith("-:"), pattern.removeprefix("-:").removeprefix("+:")
        if not _matches(plain, module, said):
            continue
        if negative:
            raise said.refused(
                "dynamic",
                f"says that {module} is not quantized, and the file has it quantized, so it is not read",
            )
        return int(rule.get("bits", general[0])), int(rule.get("group_size", general[1]))
    return general


def _matches(pattern: str, module: str, said: Said) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error as error:
        raise said.refused(
            "dynamic", f"holds {pattern!r}, no regular expression ({error}), so it is not read"
        ) from None


def _contradiction(
    checkpoint: Checkpoint, module: str, bits: int, groups: int, outputs: int
) -> SuperweightsError:
    shapes = {
        part: list(checkpoint.tensors[f"{module}.{part}"].shape) for part in ("qweight", "qzeros", "scales")
    }
    return SuperweightsError(
        f"{module} in {checkpoint.name} is not stored as gptq stores it: {shapes} do not fit {bits} bits, {outputs} "
        f"outputs and {groups} groups.",
        hint="the file is damaged, or its config is another's.",
    )
