"""Packed checkpoints in transformers: the quantization config and the quantizer that it looks up by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from superweights.artefacts.shape import Between, shaped
from superweights.errors import SuperweightsError
from superweights.formats.packed.halves import keep_in_half
from superweights.formats.packed.linear import PackedLinear, Packing
from superweights.formats.packed.packing import PARTS
from superweights.quantization.scheme import Scheme

METHOD = "superweights"
VERSION = 1
_HINT = "config.json is damaged; quantize the original again."
_Size = Annotated[int, Between(0, 2**40)]
_Dtype = Literal[
    "float64", "float32", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "float8_e4m3fn"
]


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """`schemes`, and for each packed layer its place in that list, shape, output axis, dtype and stored parts."""

    def __init__(self, schemes: list[dict], layers: dict[str, dict], version: int = VERSION, **_: Any):
        self.quant_method = METHOD  # type: ignore[assignment]
        self.schemes, self.layers, self.version = schemes, layers, version
        if isinstance(version, int) and version > VERSION:
            raise SuperweightsError(
                f"This checkpoint is packed in version {version}, and this superweights reads up to {VERSION}.",
                hint="pip install --upgrade superweights.",
            )
        self.packings()

    def packings(self) -> dict[str, Packing]:
        """How each layer is packed, by the module's name. Raises `SuperweightsError` naming the field that says no such
        thing."""
        told = {"schemes": self.schemes, "layers": self.layers, "version": self.version}
        held = shaped(_Stored, told, "quantization_config of config.json", _HINT, "whole")
        return {
            name: Packing(held.schemes[each.scheme], each.shape, each.out_axis, each.dtype, each.parts)
            for name, each in held.layers.items()
        }


@dataclass(frozen=True)
class _Layer:
    """A packed layer as config.json describes it: the place of its scheme, and dtype and shape of each stored part."""

    scheme: Annotated[int, Between(0, 2**31)]
    shape: tuple[_Size, _Size]
    out_axis: Literal[0, 1]
    dtype: Literal["float64", "float32", "float16", "bfloat16"]
    parts: Mapping[str, tuple[_Dtype, tuple[_Size, ...]]]

    def __post_init__(self) -> None:
        unknown = sorted(self.parts.keys() - set(PARTS))
        if unknown or not {"codes", "scales"} <= self.parts.keys():
            raise SuperweightsError(f"its parts are {', '.join(sorted(self.parts))}", hint=_HINT)


@dataclass(frozen=True)
class _Stored:
    """What config.json says of all packed layers."""

    schemes: tuple[Scheme, ...]
    layers: Mapping[str, _Layer]
    version: Literal[1]

    def __post_init__(self) -> None:
        for name, layer in self.layers.items():
            if layer.scheme >= len(self.schemes):
                raise SuperweightsError(
                    f"{name} has the scheme {layer.scheme} of {len(self.schemes)}", hint=_HINT
                )


def _layer_of(model: nn.Module, name: str, packing: Packing) -> Any:
    """The layer that a packed one takes the place of. Raises `SuperweightsError` where there is none of its shape."""
    try:
        found: Any = model.get_submodule(name)
    except AttributeError:
        found = None
    shape = getattr(getattr(found, "weight", None), "shape", None)
    if shape is None or tuple(shape) != packing.shape:
        raise SuperweightsError(
            f"config.json has a packed layer {name} of shape {list(packing.shape)}, and the model has none.",
            hint=_HINT,
        )
    return found


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):
    """Puts a `PackedLinear` in the place of each packed layer before the weights are loaded."""

    requires_calibration = True  # models are packed by `superweights quantize`, never while they load

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:  # type: ignore[override]
        for name, packing in self.quantization_config.packings().items():  # type: ignore[attr-defined]
            parent, _, leaf = name.rpartition(".")
            replaced = _layer_of(model, name, packing)
            packed = PackedLinear(packing, replaced.bias is not None, replaced.weight.dtype, "meta")
            setattr(model.get_submodule(parent), leaf, packed)
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:  # type: ignore[override]
        keep_in_half(model)
        return model

    def is_serializable(self) -> bool:
        """Not by `save_pretrained`: the files that `superweights quantize` wrote are the form to keep."""
        return False

    @property
    def is_trainable(self) -> bool:
        return False
