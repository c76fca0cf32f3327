"""What a quantized checkpoint makes of a matrix, read from its own tensors, without any of its kernels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError

# The place of each output in a word of eight, as AutoAWQ packs them (awq/modules/linear/gemm.py, `order_map`).
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, eq=False)
class Stored:
    """A matrix as a quantized checkpoint has it: float32 `[outputs, inputs]`, and the step of the grid at each weight
    (the distance of two neighbouring codes), where it has one."""

    weight: Tensor
    step: Tensor | None = None


Reader = Callable[[Checkpoint, str, tuple[int, ...], Mapping[str, Any]], Stored]


def method_of(checkpoint: Checkpoint) -> str:
    """The quantization method: `gguf`, what config.json names, or `dense` where it names none."""
    if checkpoint.format == "gguf":
        return "gguf"
    settings = checkpoint.config.get("quantization_config")
    if not settings:
        return "dense"
    return str(settings.get("quant_method", "unnamed"))


def holds(checkpoint: Checkpoint, tensor: str) -> bool:
    """Whether the checkpoint has this tensor of the original, in whatever form."""
    module = tensor.removesuffix(".weight")
    forms = (tensor, f"{module}.qweight", f"{module}.weight_packed", f"{module}.codes")
    return any(form in checkpoint.tensors for form in forms)


def read_stored(checkpoint: Checkpoint, tensor: str, shape: tuple[int, ...]) -> Stored:
    """The tensor that the original calls `tensor`, in its `shape`, as `checkpoint` has it.

    Raises `SuperweightsError` for a method that is not among `READERS`, and for tensors that do not fit.
    """
    method = method_of(checkpoint)
    if method not in READERS:
        raise SuperweightsError(
            f"{checkpoint.name} is quantized by {method!r}, which cannot be read here.",
            hint=f"{', '.join(READERS)} can.",
        )
    settings = checkpoint.config.get("quantization_config") or {}
    try:
        stored = READERS[method](checkpoint, tensor, shape, settings)
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError) as error:
        raise SuperweightsError(
            f"{tensor} in {checkpoint.name} is not stored as {method} stores it: {error}.",
            hint="the file may be damaged, or of a newer version of the format.",
        ) from error
    if tuple(stored.weight.shape) != tuple(shape):
        raise SuperweightsError(
            f"{tensor} has shape {list(stored.weight.shape)} in {checkpoint.name}, and {list(shape)} in the original.",
            hint="give the checkpoint that was quantized.",
        )
    return stored


def _plain(
    checkpoint: Checkpoint, tensor: str, shape: tuple[int, ...], settings: Mapping[str, Any]
) -> Stored:
    return Stored(checkpoint.read(tensor).float())


def _gptq(checkpoint: Checkpoint, tensor: str, shape: tuple[int, ...], settings: Mapping[str, Any]) -> Stored:
    """Words of 32 bits along the inputs, the first code lowest; version 1 stores zero points less one.

    Source: AutoGPTQ, `qlinear_cuda.py` (`pack`, `forward`), and GPTQModel's "gptq_v2".
    """
    module = tensor.removesuffix(".weight")
    if f"{module}.qweight" not in checkpoint.tensors:
        return _plain(checkpoint, tensor, shape, settings)
    bits = int(settings["bits"])
    if 32 % bits:
        raise SuperweightsError(
            f"GPTQ with {bits} bits spreads codes over words, which cannot be read here.",
            hint="2, 4 and 8 bits can.",
        )
    codes = _words(checkpoint.read(f"{module}.qweight").T, bits).T[: shape[1]]  # [inputs, outputs]
    zeros = _words(checkpoint.read(f"{module}.qzeros"), bits)[:, : shape[0]]
    if settings.get("checkpoint_format", "gptq") != "gptq_v2":
        zeros = zeros + 1
    scales = checkpoint.read(f"{module}.scales").float()
    inputs = torch.arange(len(codes))
    if f"{module}.g_idx" in checkpoint.tensors:
        group = checkpoint.read(f"{module}.g_idx").long()
    else:
        size = int(settings.get("group_size", -1))
        group = inputs // size if size > 0 else torch.zeros_like(inputs)
    step = scales[group]
    return Stored(((codes - zeros[group]) * step).T, step.abs().T)


def _awq(checkpoint: Checkpoint, tensor: str, shape: tuple[int, ...], settings: Mapping[str, Any]) -> Stored:
    """Words of eight outputs in AutoAWQ's order, `[inputs, outputs / 8]`; zero points likewise."""
    module = tensor.removesuffix(".weight")
    if f"{module}.qweight" not in checkpoint.tensors:
        return _plain(checkpoint, tensor, shape, settings)
    if int(settings.get("bits", settings.get("w_bit", 4))) != 4 or settings.get("version", "gemm") != "gemm":
        raise SuperweightsError(
            "Only AWQ with 4 bits in the GEMM layout can be read here.", hint="convert it to that layout."
        )
    codes = _in_order(_words(checkpoint.read(f"{module}.qweight"), 4))
    zeros = _in_order(_words(checkpoint.read(f"{module}.qzeros"), 4))
    scales = checkpoint.read(f"{module}.scales").float()
    group = torch.arange(len(codes)) // (len(codes) // len(scales))
    step = scales[group]
    return Stored(((codes - zeros[group]) * step).T, step.abs().T)


def _words(packed: Tensor, bits: int) -> Tensor:
    """The codes in 32-bit words `[rows, words]`, the lowest bits first: int32 `[rows, words * 32 / bits]`."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return ((packed.to(torch.int32)[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


def _in_order(codes: Tensor) -> Tensor:
    """AutoAWQ's words of eight put into the order of the outputs."""
    words = codes.reshape(len(codes), -1, 8)
    ordered = torch.empty_like(words)
    ordered[..., list(_AWQ_ORDER)] = words
    return ordered.flatten(-2)


def _compressed_tensors(
    checkpoint: Checkpoint, tensor: str, shape: tuple[int, ...], settings: Mapping[str, Any]
) -> Stored:
    """Packed integers, or int8 and float8 numbers, with scales by channel or group (compressed-tensors 0.20)."""
    module = tensor.removesuffix(".weight")
    if f"{module}.weight_scale" not in checkpoint.tensors:
        return _plain(checkpoint, tensor, shape, settings)
    scales = checkpoint.read(f"{module}.weight_scale").float()
    zeros = None
    if f"{module}.weight_packed" in checkpoint.tensors:
        bits = _bits_of(module, settings)
        codes = _offset_words(checkpoint.read(f"{module}.weight_packed"), bits)[:, : shape[1]]
        if f"{module}.weight_zero_point" in checkpoint.tensors:
            packed = checkpoint.read(f"{module}.weight_zero_point")
            zeros = (
                _offset_words(packed.T, bits).T[: shape[0]] if packed.dtype == torch.int32 else packed.float()
            )
    else:
        codes = checkpoint.read(tensor).float()
        if f"{module}.weight_zero_point" in checkpoint.tensors:
            zeros = checkpoint.read(f"{module}.weight_zero_point").float()
    groups = scales.reshape(scales.shape[0] if scales.dim() else 1, -1)
    group = torch.arange(shape[1]) * groups.shape[1] // shape[1]
    step = groups[:, group].expand(shape[0], shape[1])
    middle = 0.0 if zeros is None else zeros.reshape(groups.shape)[:, group]
    integers = f"{module}.weight_packed" in checkpoint.tensors or codes.dtype != torch.float32
    return Stored((codes.float() - middle) * step, step.abs() if integers else None)


def _offset_words(packed: Tensor, bits: int) -> Tensor:
    """Signed codes: the package adds half the range before packing."""
    return _words(packed, bits) - 2 ** (bits - 1)


def _bits_of(module: str, settings: Mapping[str, Any]) -> int:
    """The bits of the group that names this module, or all Linear ones."""
    groups = [group for group in settings["config_groups"].values() if isinstance(group, dict)]
    for group in groups:
        for target in group["targets"]:
            pattern = target.removeprefix("re:")
            if target == module or (target != pattern and re.match(pattern, module)):
                return int(group["weights"]["num_bits"])
    return int(next(g for g in groups if "Linear" in g["targets"])["weights"]["num_bits"])


def _bitsandbytes(
    checkpoint: Checkpoint, tensor: str, shape: tuple[int, ...], settings: Mapping[str, Any]
) -> Stored:
    """nf4 and fp4 by the package's own function; int8 as W = codes * SCB / 127."""
    module = tensor.removesuffix(".weight")
    parts = [name for name in checkpoint.tensors if name.startswith(f"{tensor}.")]
    if f"{module}.SCB" in checkpoint.tensors:
        step = (checkpoint.read(f"{module}.SCB").float() / 127)[:, None].expand(shape)
        return Stored(checkpoint.read(tensor).float() * step, step)
    if not parts:
        return _plain(checkpoint, tensor, shape, settings)
    try:
        from bitsandbytes.functional import QuantState, dequantize_4bit
    except ImportError as error:
        raise SuperweightsError(
            f"{checkpoint.name} is quantized by bitsandbytes, whose tables are in that package.",
            hint="pip install bitsandbytes.",
        ) from error
    state = QuantState.from_dict({name: checkpoint.read(name) for name in parts}, torch.device("cpu"))
    return Stored(dequantize_4bit(checkpoint.read(tensor), state).float().reshape(shape))


def _ours(checkpoint: Checkpoint, tensor: str, shape: tuple[int, ...], settings: Mapping[str, Any]) -> Stored:
    """The packed format of `superweights quantize`."""
    from superweights.formats.packed.loading import PackedConfig
    from superweights.formats.packed.packing import PARTS, unpack

    module = tensor.removesuffix(".weight")
    if f"{module}.codes" not in checkpoint.tensors:
        return _plain(checkpoint, tensor, shape, settings)
    packing = PackedConfig(**settings).packings()[module]
    parts = {
        part: checkpoint.read(f"{module}.{part}") if f"{module}.{part}" in checkpoint.tensors else None
        for part in PARTS
    }
    quantized = unpack(
        parts, packing.scheme, torch.Size(packing.shape), getattr(torch, packing.dtype), packing.out_axis
    )
    return Stored(quantized.dequantize(torch.float32))


READERS: dict[str, Reader] = {
    "dense": _plain,
    "gguf": _plain,
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed_tensors,
    "bitsandbytes": _bitsandbytes,
    "superweights": _ours,
}
