"""Packed checkpoints in transformers: the quantization config and the quantizer that it looks up by name."""

from __future__ import annotations

import json
from typing import Any

from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from superweights.errors import SuperweightsError
from superweights.formats.packed.linear import PackedLinear, Packing
from superweights.quantization.scheme import Scheme

METHOD = "superweights"
VERSION = 1


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """`schemes`, and for each packed layer its place in that list, shape, output axis, dtype and stored parts."""

    def __init__(self, schemes: list[dict], layers: dict[str, dict], version: int = VERSION, **_: Any):
        self.quant_method = METHOD  # type: ignore[assignment]
        self.schemes, self.layers, self.version = schemes, layers, version
        if version > VERSION:
            raise SuperweightsError(
                f"This checkpoint is packed in version {version}, and this superweights reads up to {VERSION}.",
                hint="pip install --upgrade superweights.",
            )

    def packings(self) -> dict[str, Packing]:
        """How each layer is packed, by the module's name."""
        schemes = [Scheme.from_json(json.dumps(each)) for each in self.schemes]
        found = {}
        for name, held in self.layers.items():
            parts = {part: (dtype, tuple(shape)) for part, (dtype, shape) in held["parts"].items()}
            shape, scheme = tuple(held["shape"]), schemes[held["scheme"]]
            found[name] = Packing(scheme, shape, held["out_axis"], held["dtype"], parts)
        return found


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):
    """Puts a `PackedLinear` in the place of each packed layer before the weights are loaded."""

    requires_calibration = True  # models are packed by `superweights quantize`, never while they load

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:  # type: ignore[override]
        for name, packing in self.quantization_config.packings().items():  # type: ignore[attr-defined]
            parent, _, leaf = name.rpartition(".")
            replaced: Any = model.get_submodule(name)
            packed = PackedLinear(packing, replaced.bias is not None, replaced.weight.dtype, "meta")
            setattr(model.get_submodule(parent), leaf, packed)
        return model

    def is_serializable(self) -> bool:
        """Not by `save_pretrained`: the files that `superweights quantize` wrote are the form to keep."""
        return False

    @property
    def is_trainable(self) -> bool:
        return False
