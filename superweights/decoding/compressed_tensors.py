"""compressed-tensors: each module by the package's own decompressor, by the scheme that its own matching finds.

Two things are read that version 0.20 of the package no longer reads: words with unused bits, as earlier versions packed
3, 5, 6 and 7 bits, and `weight_g_idx`, the group of each input under activation order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from superweights.checkpoint import Checkpoint
from superweights.decoding.decoded import NEWER, Decoded, Format, Said, modules_with
from superweights.errors import SuperweightsError

_PARTS = ("weight_scale", "weight_zero_point", "weight_global_scale", "weight_shape", "weight_g_idx")
# What the whole checkpoint's format says when modules have their own.
_NO_FORMAT = (None, "mixed-precision", "dense")


def compressed_tensors(checkpoint: Checkpoint, said: Said) -> Format:
    """The format of a checkpoint that says `quant_method: compressed-tensors`."""
    try:
        from compressed_tensors.quantization import QuantizationConfig
    except ImportError as error:
        raise SuperweightsError(
            f"{checkpoint.name} is compressed-tensors, which the package of that name decodes.",
            hint="pip install 'superweights[formats]'.",
        ) from error
    said.known("compressed-tensors")
    for name in ("sparsity_config", "transform_config"):
        inner = said.settings.get(name) or {}
        if inner.get("format", "dense") != "dense" or inner.get("config_groups"):
            raise said.refused(name, "cannot be read")
    try:
        config = QuantizationConfig.model_validate(_without_order(said.settings))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        first = " ".join(str(error).split())[:200]
        raise SuperweightsError(
            f"{said.where} is no configuration of compressed-tensors: {first}.", hint=NEWER
        ) from error
    packed = modules_with(checkpoint, "weight_packed", _PARTS)
    plain = modules_with(checkpoint, "weight", _PARTS)
    parts = {**packed, **{name: held for name, held in plain.items() if len(held) > 1 and name not in packed}}

    def decode(name: str) -> Decoded:
        module = name.removesuffix(".weight")
        scheme = _scheme_of(module, config, said)
        held = {part.removeprefix(f"{module}."): checkpoint.read_stored(part) for part in parts[name]}
        return _decode(module, held, scheme, config.format, said)

    return Format("compressed-tensors", parts, decode)


def _without_order(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without `actorder`, of which the package refuses earlier values; the files hold the order."""
    changed = copy.deepcopy(dict(settings))
    for group in (changed.get("config_groups") or {}).values():
        if isinstance(group, dict) and isinstance(group.get("weights"), dict):
            group["weights"].pop("actorder", None)
    return changed


def _scheme_of(module: str, config: Any, said: Said) -> Any:
    """The scheme of a module, as the package assigns it: the first target that matches, by name, then by class."""
    from compressed_tensors.utils.match import is_match, match_targets

    targets = {target: scheme for scheme in config.config_groups.values() for target in scheme.targets}
    for kind in (nn.Linear(1, 1, device="meta"), nn.Embedding(1, 1, device="meta")):
        matched = match_targets(module, kind, targets)
        if matched and is_match(module, kind, targets, config.ignore or ()):
            return targets[matched[0]]
    raise said.refused(
        "config_groups", f"says nothing of {module}, which the checkpoint stores quantized, so it is not read"
    )


def _decode(module: str, held: dict[str, Tensor], scheme: Any, general: str | None, said: Said) -> Decoded:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format

    format_ = (
        scheme.format
        or (None if general in _NO_FORMAT else general)
        or infer_module_format(nn.Linear, scheme)
    )
    name = getattr(format_, "value", format_)
    if name not in BaseCompressor.registered_names():
        raise said.refused("format", f"({name}) has no decompressor")
    if scheme.weights is None:
        raise said.refused(
            "config_groups",
            f"rounds no weights of {module}, which the checkpoint stores quantized, so it is not read",
        )
    packs = "weight_packed" in BaseCompressor.get_value_from_registry(name).compression_param_names(scheme)
    codes = held.get("weight_packed" if packs else "weight")
    if codes is None or codes.dim() != 2 or (codes.is_floating_point() and codes.dtype.itemsize > 1):
        raise SuperweightsError(
            f"{module} is not stored as {name} stores it: it has {', '.join(sorted(held))} ({said.where}).",
            hint="a checkpoint that was never compressed, or a config of another.",
        )
    order = held.pop("weight_g_idx", None)
    if name == "pack-quantized":
        return _packed(module, held, scheme, order, said)
    if order is not None:
        raise said.refused(
            "format",
            f"({name}) has no activation order, and {module}.weight_g_idx tells one, so it is not read",
        )
    parts: Any = held
    weight = BaseCompressor.get_value_from_registry(name).decompress(parts, scheme)["weight"]
    assert weight is not None, "a decompressor makes a weight"
    return Decoded(weight, _step(weight.shape, held["weight_scale"], scheme.weights))


def _packed(module: str, held: dict[str, Tensor], scheme: Any, order: Tensor | None, said: Said) -> Decoded:
    """Whole numbers in words of 32 bits."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    args, scale, packed = scheme.weights, held["weight_scale"], held["weight_packed"]
    shape = _shape(module, held, said)
    codes = _unpack(packed, args.num_bits, shape, module, said)
    zero = held.get("weight_zero_point")
    if args.symmetric:
        zero = None
    elif zero is None:
        raise said.refused(
            "config_groups", f"is not symmetric, and {module} has no zero points, so it is not read"
        )
    elif zero.dtype == torch.int32:
        zero = (
            unpack_from_int32(zero, args.num_bits, torch.Size((shape[0], scale.shape[-1])), packed_dim=0)
            if zero.shape[0] == math.ceil(shape[0] * args.num_bits / 32)
            else _unpack(zero.T, args.num_bits, torch.Size((scale.shape[-1], shape[0])), module, said).T
        )
    if order is None:
        return Decoded(dequantize(codes, scale, zero, args), _step(shape, scale, args))
    columns = _sorted_by_group(module, order, shape[1], args, scale, said)
    weight, step = dequantize(codes[:, columns], scale, zero, args), _step(shape, scale, args)
    back = columns.argsort()
    return Decoded(weight[:, back], None if step is None else step[:, back])


def _sorted_by_group(module: str, order: Tensor, inputs: int, args: Any, scale: Tensor, said: Said) -> Tensor:
    """The inputs in the order of their groups. Raises where the groups are not of one size."""
    order = order.long()
    if len(order) == inputs and bool((order == -1).all()):
        return torch.arange(inputs)
    sizes = torch.bincount(order.clamp(min=0), minlength=scale.shape[-1])
    if (
        len(order) != inputs
        or int(order.min()) < 0
        or not bool((sizes == args.group_size).all())
        or len(sizes) != scale.shape[-1]
    ):
        raise SuperweightsError(
            f"{module}.weight_g_idx does not put {inputs} inputs into {scale.shape[-1]} groups of "
            f"{args.group_size}, as {said.where} has it.",
            hint="the file is damaged, or its config is another's.",
        )
    return order.argsort(stable=True)


def _shape(module: str, held: Mapping[str, Tensor], said: Said) -> torch.Size:
    shape = held.get("weight_shape")
    if shape is None or shape.numel() != 2:
        raise SuperweightsError(f"{module}.weight_shape is missing or damaged ({said.where}).", hint=NEWER)
    return torch.Size(shape.tolist())


def _unpack(packed: Tensor, bits: int, shape: torch.Size, module: str, said: Said) -> Tensor:
    """Signed codes of `shape`: packed without gaps by the package's function, else as versions before 0.18 packed."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    rows, columns = shape
    dense, gaps = math.ceil(columns * bits / 32), math.ceil(columns / (32 // bits))
    if packed.shape != (rows, dense) and packed.shape != (rows, gaps):
        raise SuperweightsError(
            f"{module} holds {list(packed.shape)} words, which {list(shape)} weights of {bits} bits do not take "
            f"({said.where}).",
            hint="the file is damaged, or its config is another's.",
        )
    if dense == gaps and 32 % bits:
        raise SuperweightsError(
            f"{module}: {columns} inputs of {bits} bits take the same words in two layouts of compressed-tensors, and "
            f"nothing in {said.where} tells which.",
            hint="none: such a matrix is too narrow to tell.",
        )
    if packed.shape[1] == dense:
        return unpack_from_int32(packed, bits, shape)
    shifts = torch.arange(32 // bits, dtype=torch.int32) * bits
    codes = ((packed[..., None] >> shifts) & (2**bits - 1)).flatten(1)[:, :columns]
    return (codes - 2 ** (bits - 1)).to(torch.int8)


def _step(shape: torch.Size, scale: Tensor, args: Any) -> Tensor | None:
    """The scale at each weight of an integer grid."""
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    if args.type != "int":
        return None
    return dequantize(torch.ones(shape, dtype=torch.int8), scale, None, args).abs()
