"""Which matrices of a model an expert may turn: the linear layers of its blocks, told apart by what the model does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from superweights.axes import Float
from superweights.errors import SuperweightsError
from superweights.subject import layout_of
from superweights.taps import Site, SiteMap, sites_of

PARTS = ("mlp", "attention", "both")


@dataclass(frozen=True)
class Matrix:
    """One linear layer: its module's path, its block's number, whether it belongs to `mlp` or `attention`, and shape.

    `shape` is (outputs, inputs) whatever way it is stored; `transposed` says that it is stored [inputs, outputs].
    """

    path: str
    layer: int
    part: str
    """mlp or attention."""
    shape: tuple[int, int]
    transposed: bool

    @property
    def rank(self) -> int:
        """How many singular values it has."""
        return min(self.shape)


def matrices_of(
    model: nn.Module, part: str = "mlp", layers: Sequence[int] | None = None
) -> tuple[Matrix, ...]:
    """The linear layers of `model`'s MLPs, attentions or both, in the given layers (None: all), in the model's order.

    A layer belongs to attention where it lies below the module inside which attention was seen to run, or, in blocks
    that mix tokens by other means, where it does not stand beside the MLP's down-projection. Layers that share one
    weight appear once. Stacked experts are no linear layers and are not among them.

    Raises `SuperweightsError` for another `part`, a layer that is not there, and where nothing is left.
    """
    if part not in PARTS:
        raise SuperweightsError(
            f"There are no matrices called {part!r}.", hint=f"choose one of {', '.join(PARTS)}."
        )
    sites = sites_of(model)
    wrong = [layer for layer in layers or () if not 0 <= layer < len(sites.blocks)]
    if wrong:
        raise SuperweightsError(
            f"There is no layer {wrong[0]}: the model has {len(sites.blocks)}.", hint="layers count from 0."
        )
    chosen = range(len(sites.blocks)) if layers is None else sorted(set(layers))
    found = [m for layer in chosen for m in _in_layer(model, sites, layer) if part in (m.part, "both")]
    if not found:
        raise SuperweightsError(
            f"{type(model).__name__} has no linear layers of its own in {part} there.",
            hint="choose another part or other layers; stacked experts cannot be adapted.",
        )
    return tuple(found)


def weight_of(model: nn.Module, matrix: Matrix) -> Float[Tensor, "outputs inputs"]:
    """The matrix `[outputs, inputs]` in float32 on the CPU, as the model multiplies with it; a copy.

    Raises `SuperweightsError` for weights that are not in memory, and for quantized layers that do not give theirs.
    """
    module = model.get_submodule(matrix.path)
    dequantize: Any = getattr(module, "dequantize", None)
    if callable(dequantize):
        held: Any = dequantize(torch.float32)
    else:
        held = dense_parameter(module, matrix.path)
        if held.is_meta:
            address = layout_of(model).address_of(f"{matrix.path}.weight", (0, 0))
            raise SuperweightsError(
                f"{address.tensor} is not in memory.",
                hint="open the model resident, or decompose it block by block.",
            )
    held = held.detach().T if matrix.transposed and not callable(dequantize) else held.detach()
    return held.to("cpu", torch.float32, copy=True).contiguous()


def dense_parameter(module: nn.Module, path: str) -> nn.Parameter:
    """The parameter that a Linear or Conv1D multiplies with. Raises `SuperweightsError` where it is quantized."""
    weight = getattr(module, "weight", None)
    dense = isinstance(weight, nn.Parameter) and weight.is_floating_point() and weight.dim() == 2
    if weight is None or not dense:
        raise SuperweightsError(
            f"{path} is a {type(module).__name__}, whose quantized weights cannot be decomposed.",
            hint="give the unquantized checkpoint, or one packed by superweights quantize.",
        )
    return weight


def is_packed(module: nn.Module) -> bool:
    """Whether the layer keeps codes instead of weights, and gives the weights when asked."""
    return callable(getattr(module, "dequantize", None))


def _in_layer(model: nn.Module, sites: SiteMap, layer: int) -> Iterator[Matrix]:
    attention, beside = _attention(sites, layer), _beside_down(sites, layer)
    seen: set[int] = set()
    block = sites.blocks[layer]
    for path, module in model.get_submodule(block).named_modules(prefix=block):
        shape = _shape(module)
        if shape is None or id(getattr(module, "weight", module)) in seen:
            continue
        if not is_packed(module):
            seen.add(id(dense_parameter(module, path)))
        part = "attention" if _belongs(path, attention, beside) else "mlp"
        yield Matrix(path, layer, part, shape, isinstance(module, Conv1D))


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """(outputs, inputs) of a linear layer, or None for anything else."""
    if isinstance(module, Conv1D):
        return module.weight.shape[1], module.weight.shape[0]
    if isinstance(module, nn.Linear) or (is_packed(module) and hasattr(module, "in_features")):
        return int(module.out_features), int(module.in_features)  # type: ignore[arg-type]
    return None


def _belongs(path: str, attention: str | None, beside: str | None) -> bool:
    if attention is not None:
        return path.startswith(f"{attention}.")
    return beside is not None and not path.startswith(f"{beside}.")


def _attention(sites: SiteMap, layer: int) -> str | None:
    """The module inside which attention runs, or another token mixer whose output is what attention's would be."""
    for kind in ("weights", "q", "attn_write"):
        place = sites.places.get(Site(kind, layer))
        if place is not None and (kind != "attn_write" or place.edge == "output"):
            return place.path
    return None


def _beside_down(sites: SiteMap, layer: int) -> str | None:
    """The module that holds the MLP's down-projection."""
    place = sites.places.get(Site("mlp_act", layer))
    return None if place is None else place.path.rpartition(".")[0]
