"""Super weights put back beside any quantized linear: `y[:, j] += (w - w_quantized) x[:, k]`.

What the base made of a weight is measured through the layer itself, by its answer to one unit vector, so no
quantizer's format has to be known: bitsandbytes, torchao, HQQ, GPTQ and plain layers are the same here. Where
a kernel rounds activations too, the answer carries that rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from superweights.checkpoint.complaints import complaints
from superweights.errors import SuperweightsError
from superweights.quantization.sidecar import KeptWeight, SideCar
from superweights.subject import layout_of

# Below this cosine between stored and measured weights a base is not the one that was peeled. Two-bit rounding
# keeps about 0.8; 64 weights of another model give 0 within 0.4.
LIKENESS = 0.5


@dataclass(frozen=True)
class Correction:
    """What one linear lacks: `delta` = exact weight - the weight it uses, from input `in_neuron` to `out_channel`."""

    module: str
    """The linear's name in the model."""
    out_channel: int
    in_neuron: int
    delta: float
    """What is to be added."""


@torch.no_grad()
def corrections(model: nn.Module, side_car: SideCar) -> tuple[Correction, ...]:
    """What each weight of `side_car` still lacks in `model`, measured through its layers.

    Raises `SuperweightsError` where a layer is missing, has another shape, or holds other weights.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        # compressed-tensors unpacks its weights in the model's first pass, and its layers cannot be asked before.
        with complaints("The base cannot be run", hint="its files may be damaged; write it again."):
            model(torch.zeros((1, 1), dtype=torch.long, device=next(model.parameters()).device))
    found = []
    for kept in side_car.weights:
        name, module = _module(model, kept)
        column = _column(module, kept, name)
        alike = kept.likeness(column)
        if alike is not None and alike < LIKENESS:
            raise SuperweightsError(
                f"{name} is not the layer that {kept.address} was taken from: its weights are others "
                f"(cosine {alike:.2f}).",
                hint="attach the side-car to the base that was peeled, or to a quantized form of it.",
            )
        delta = kept.value - float(column[kept.out_channel])
        found.append(Correction(name, kept.out_channel, kept.in_neuron, delta))
    return tuple(found)


def attach(model: nn.Module, side_car: SideCar) -> list[Any]:
    """The hooks that make every linear of `side_car` answer with its exact weights; `.remove()` undoes one.

    The correction is added in the dtype of the layer's output; weights and kernels are not touched.
    """
    by_module: dict[str, list[Correction]] = {}
    for correction in corrections(model, side_car):
        by_module.setdefault(correction.module, []).append(correction)
    return [
        model.get_submodule(name).register_forward_hook(_adding(together))
        for name, together in by_module.items()
    ]


@contextmanager
def attached(model: nn.Module, side_car: SideCar) -> Iterator[nn.Module]:
    """`model` with the weights of `side_car` in place, for the length of the `with`."""
    hooks = attach(model, side_car)
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


def _adding(together: list[Correction]):
    out_channels = torch.tensor([c.out_channel for c in together])
    in_neurons = torch.tensor([c.in_neuron for c in together])
    deltas = torch.tensor([c.delta for c in together])

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        x, device = inputs[0], output.device
        lacking = x[..., in_neurons.to(x.device)].float() * deltas.to(x.device)
        return output.index_add(-1, out_channels.to(device), lacking.to(output.dtype))

    return add


def _module(model: nn.Module, kept: KeptWeight) -> tuple[str, nn.Module]:
    """The layer that holds `kept`, and its name."""
    parameter, _ = layout_of(model).parameter_of(kept.address)
    name = parameter.removesuffix(".weight")
    try:
        return name, model.get_submodule(name)
    except AttributeError as error:
        raise SuperweightsError(
            f"The model has no layer {name}, where {kept.address} belongs.",
            hint="attach to the model of the checkpoint that was peeled.",
        ) from error


def _column(module: nn.Module, kept: KeptWeight, name: str) -> torch.Tensor:
    """The weights from input `in_neuron` to every output, float32, as the layer applies them."""
    inputs = inputs_of(module, name)
    if kept.in_neuron >= inputs:
        raise SuperweightsError(
            f"{kept.address} reads input {kept.in_neuron}, and {name} has {inputs}.",
            hint="attach to the model of the checkpoint that was peeled; Conv1D needs out_axis=1 when peeling.",
        )
    tensors = [*module.parameters(), *module.buffers()]
    floating = [t for t in tensors if t.is_floating_point() and t.element_size() > 1]
    dtype = floating[0].dtype if floating else torch.float32
    device = tensors[0].device if tensors else "cpu"
    probe = torch.zeros(2, inputs, dtype=dtype, device=device)
    probe[0, kept.in_neuron] = 1
    answer = module(probe).float().cpu()
    if kept.out_channel >= answer.shape[1]:
        raise SuperweightsError(
            f"{kept.address} feeds output {kept.out_channel}, and {name} has {answer.shape[1]}.",
            hint="attach to the model of the checkpoint that was peeled.",
        )
    return answer[0] - answer[1]


def inputs_of(module: nn.Module, name: str) -> int:
    """How many inputs a linear layer has."""
    inputs = getattr(module, "in_features", None)
    if inputs is None and hasattr(module, "nf"):  # transformers' Conv1D keeps its matrix as [inputs, outputs]
        inputs = module.get_parameter("weight").shape[0]
    if not isinstance(inputs, int):
        raise SuperweightsError(
            f"{name} is no linear layer that can be corrected ({type(module).__name__}).",
            hint="fused experts have no layer of their own: keep the whole tensor in high precision.",
        )
    return inputs
