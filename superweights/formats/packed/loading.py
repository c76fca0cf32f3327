"""Packed checkpoints in transformers: the quantization config and the quantizer that it looks up by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from superweights.artefacts.shape import Between, shaped
from superweights.errors import SuperweightsError
from superweights.formats.packed.embedding import PackedEmbedding, TiedHead
from superweights.formats.packed.experts import PackedExperts
from superweights.formats.packed.halves import keep_in_half
from superweights.formats.packed.linear import PackedLinear, Packing
from superweights.formats.packed.packing import PARTS
from superweights.formats.packed.place import Piece
from superweights.quantization.scheme import Scheme

METHOD = "superweights"
# Version 2 has stacked experts; a checkpoint without any is still written as version 1.
VERSION = 2
_HINT = "config.json is damaged; quantize the original again."
_Size = Annotated[int, Between(0, 2**40)]
_Dtype = Literal[
    "float64", "float32", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "float8_e4m3fn"
]


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """`schemes`, and for each packed layer its place in that list, shape, output axis, dtype and stored parts.

    `experts` says for each stacked parameter the same of the tensors that it is made of, and where they lie in it.
    """

    def __init__(
        self,
        schemes: list[dict],
        layers: dict[str, dict],
        version: int = VERSION,
        experts: dict[str, list[dict]] | None = None,
        **_: Any,
    ):
        self.quant_method = METHOD  # type: ignore[assignment]
        self.schemes, self.layers, self.version, self.experts = schemes, layers, version, experts or {}
        if isinstance(version, int) and version > VERSION:
            raise SuperweightsError(
                f"This checkpoint is packed in version {version}, and this superweights reads up to {VERSION}.",
                hint="pip install --upgrade superweights.",
            )
        self.packings()

    def packings(self) -> dict[str, Packing]:
        """How each layer is packed, by the module's name. Raises `SuperweightsError` naming the field that says no such
        thing."""
        held = self._held()
        return {name: _packing(held, each) for name, each in held.layers.items()}

    def stacked(self) -> dict[str, list[tuple[Packing, Piece]]]:
        """Of each stacked parameter of experts the tensors that it is made of. Errors as `packings`."""
        held = self._held()
        return {
            name: [
                (_packing(held, each), Piece(each.expert, each.axis, each.start, each.transposed))
                for each in several
            ]
            for name, several in held.experts.items()
        }

    def _held(self) -> _Stored:
        told = {
            "schemes": self.schemes,
            "layers": self.layers,
            "version": self.version,
            "experts": self.experts,
        }
        return shaped(_Stored, told, "quantization_config of config.json", _HINT, "whole")


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
class _Expert:
    """A packed tensor that stacked experts are made of, as config.json describes it, and its place (`Piece`)."""

    scheme: Annotated[int, Between(0, 2**31)]
    shape: tuple[_Size, ...]
    out_axis: Literal[0, 1, 2]
    dtype: Literal["float64", "float32", "float16", "bfloat16"]
    parts: Mapping[str, tuple[_Dtype, tuple[_Size, ...]]]
    expert: Annotated[int, Between(0, 2**31)] | None
    axis: Literal[0, 1]
    start: _Size
    transposed: bool

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or not {"codes", "scales"} <= self.parts.keys() <= set(PARTS):
            raise SuperweightsError(f"its parts are {', '.join(sorted(self.parts))}", hint=_HINT)


@dataclass(frozen=True)
class _Stored:
    """What config.json says of all packed layers."""

    schemes: tuple[Scheme, ...]
    layers: Mapping[str, _Layer]
    version: Literal[1, 2]
    experts: Mapping[str, tuple[_Expert, ...]]

    def __post_init__(self) -> None:
        several = [(name, one) for name, many in self.experts.items() for one in many]
        for name, layer in [*self.layers.items(), *several]:
            if layer.scheme >= len(self.schemes):
                raise SuperweightsError(
                    f"{name} has the scheme {layer.scheme} of {len(self.schemes)}", hint=_HINT
                )


def _packing(held: _Stored, each: _Layer | _Expert) -> Packing:
    return Packing(held.schemes[each.scheme], each.shape, each.out_axis, each.dtype, each.parts)


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


def _experts_of(model: nn.Module, name: str, packed: Mapping[str, Any]) -> nn.Module:
    """The experts that packed ones take the place of. Raises `SuperweightsError` where there are none."""
    try:
        found = model.get_submodule(name)
        whole = all(found.get_parameter(leaf).dim() == 3 for leaf in packed)
    except AttributeError:
        whole = False
    if not whole:
        raise SuperweightsError(f"config.json has packed experts {name}, and the model has none.", hint=_HINT)
    return found


def _family_of(model: nn.Module, name: str) -> Any:
    """The innermost model of transformers' around the module `name`: it knows how the module starts."""
    family: Any = model
    for end in range(1, name.count(".") + 1):
        above = model.get_submodule(".".join(name.split(".")[:end]))
        family = above if isinstance(above, PreTrainedModel) else family
    return family


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _share(model: nn.Module, name: str) -> None:
    """What is tied to the embedding `name` asks the packed one: it has no weight of its own to be tied to."""
    embedding: Any = model.get_submodule(name)
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    for target in [target for target, source in tied.items() if source == f"{name}.weight"]:
        path = target.removesuffix(".weight")
        other: Any = model.get_submodule(path)
        _put(model, path, TiedHead(embedding, other.bias) if isinstance(other, nn.Linear) else embedding)
        tied.pop(target)


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):
    """Puts a `PackedLinear` in the place of each packed layer before the weights are loaded."""

    requires_calibration = True  # models are packed by `superweights quantize`, never while they load

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:  # type: ignore[override]
        for name, packing in self.quantization_config.packings().items():  # type: ignore[attr-defined]
            replaced = _layer_of(model, name, packing)
            if isinstance(replaced, nn.Embedding):
                _put(model, name, PackedEmbedding(packing, replaced, "meta"))
                _share(model, name)
            else:
                _put(
                    model,
                    name,
                    PackedLinear(packing, replaced.bias is not None, replaced.weight.dtype, "meta"),
                )
        stacked: dict[str, dict[str, Any]] = {}
        for name, several in self.quantization_config.stacked().items():  # type: ignore[attr-defined]
            module, _, leaf = name.rpartition(".")
            stacked.setdefault(module, {})[leaf] = several
        for module, packed in stacked.items():
            _put(model, module, PackedExperts(_experts_of(model, module, packed), packed, "meta"))
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:  # type: ignore[override]
        for name, module in model.named_modules():
            if isinstance(module, PackedEmbedding):
                module.start_buffers(_family_of(model, name))
        keep_in_half(model)
        return model

    def is_serializable(self) -> bool:
        """Not by `save_pretrained`: the files that `superweights quantize` wrote are the form to keep."""
        return False

    @property
    def is_trainable(self) -> bool:
        return False
