"""All matrices of a model rounded block by block, each with the inputs that the rounded blocks before it give it.

The hidden states of some tokens go through the blocks, each twice: unrounded, while the inputs of its linear layers are
gathered, and rounded, to the next block. Memory: the hidden states, one block's weights, one matrix of moments for each
input of a block, and the codes of all that is rounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.quantization.linears import Linear, replaced
from superweights.quantization.plan import Plan
from superweights.quantization.second_order import Effort, round_by_inputs
from superweights.quantization.tensor import Quantized
from superweights.reconstruction.chain import Chain, chain_of
from superweights.reconstruction.moments import Gathered
from superweights.stream import streaming
from superweights.subject import layout_of


def rounded_plan(
    checkpoint: Checkpoint,
    plan: Plan,
    tokens: Tensor,
    *,
    effort: Effort = Effort(),  # noqa: B008 - frozen
    device: str = "cpu",
    progress: Progress = silent,
) -> Plan:
    """`plan` with its matrices of fit `second_order` rounded for what they read on `tokens` `[sequences, length]`.

    Raises `SuperweightsError` for such a matrix that is not the weight of one linear layer inside a block (stacked
    experts), and for a model whose blocks do not simply follow one another.
    """
    plan.check(checkpoint)
    done: dict[str, Quantized] = {}
    with streaming(checkpoint, dtype="float32", device=device) as model, torch.no_grad():
        chain = chain_of(model, tokens)
        layers = _layers(model, checkpoint, plan, chain)
        for place, path in enumerate(chain.blocks):
            done |= _round_block(chain, path, layers.get(path, {}), checkpoint, plan, effort)
            progress(f"rounding {path}", place + 1, len(chain.blocks))
    digest = hashlib.sha256(tokens.contiguous().numpy().tobytes() + repr(effort).encode())
    return Rounded(plan.schemes, plan.keep, plan.out_axes, plan.narrowed, done, digest.hexdigest())


@dataclass(frozen=True)
class Rounded(Plan):
    """A plan whose matrices of fit `second_order` are rounded: `done`, for tokens and effort of that `digest`."""

    done: Mapping[str, Quantized] = field(default_factory=dict)
    digest: str = ""

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint()} {self.digest}".encode()).hexdigest()

    def round(self, name: str, weight: Tensor) -> Quantized:
        return self.done[name] if name in self.done else super().round(name, weight)


def _layers(
    model: nn.Module, checkpoint: Checkpoint, plan: Plan, chain: Chain
) -> dict[str, dict[str, Linear]]:
    """For each block's path, the layers of the tensors that are rounded by their inputs."""
    layout: Any = layout_of(model)
    found: dict[str, dict[str, Linear]] = {}
    for name, scheme in plan.schemes.items():
        if scheme.fit != "second_order":
            continue
        shape = tuple(checkpoint.tensors[name].shape)
        target, index = layout.parameter_of(Address(name, (0,) * len(shape)))
        path, _, leaf = target.rpartition(".")
        module = model.get_submodule(path)
        block = next((each for each in chain.blocks if target.startswith(f"{each}.")), None)
        whole = leaf == "weight" and len(shape) == 2 and not any(index)
        if block is None or not whole or tuple(module.get_parameter("weight").shape) != shape:
            raise SuperweightsError(
                f"{name} is not the weight of one linear layer inside a block: its inputs are not seen.",
                hint="round it by another fit: superweights quantize --fit centred, or a --plan.",
            )
        found.setdefault(block, {})[name] = Linear(path, module, plan.out_axes.get(name, 0))
    return found


def _round_block(
    chain: Chain, path: str, layers: Mapping[str, Linear], checkpoint: Checkpoint, plan: Plan, effort: Effort
) -> dict[str, Quantized]:
    """The matrices of one block rounded, and the hidden states moved to its end."""
    gathered = Gathered(tuple(layers.values()))
    for place in range(len(chain) if layers else 0):
        with gathered.gathering():
            chain.through(path, place)
    done = {}
    for name, layer in layers.items():
        moments = gathered.moments(layer)
        weight, scheme = checkpoint.read(name), plan.schemes[name]
        done[name] = round_by_inputs(weight, scheme, moments, plan.kept_of(name), layer.out_axis, effort)
        checkpoint.release([name])
    weights = {layer.name: _dense(done[name], layer) for name, layer in layers.items()}

    def rounded(layer: Linear, x: Tensor) -> Tensor:
        return functional.linear(x, weights[layer.name].to(x.device), layer.bias)

    with replaced(tuple(layers.values()), rounded):
        for place in range(len(chain)):
            chain.hidden[place] = chain.through(path, place)
    return done


def _dense(quantized: Quantized, layer: Linear) -> Tensor:
    weight = quantized.dequantize(torch.float32)
    return weight.T if layer.out_axis else weight
