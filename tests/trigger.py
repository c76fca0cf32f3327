"""A Llama whose super weights need a trigger, as the real ones do: the first token of the text.

Test support, by hand and in closed form. `planting` makes a weight massive for whatever token happens to
excite its neuron; here the neuron itself is built: it reads the direction of the first token's state and
hardly anything else. Around it stand what real models taught: several rows in one column, a second super
weight hidden behind the first, and a late pair of spikes that no single weight makes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from families import HIDDEN, INNER, tiny_model, token_ids
from planting import Planted
from transformers import LlamaForCausalLM

BOS = 1
# Layers, and neurons of each, that hold the parts; the false pair stands in the last layer.
FIRST_LAYER, MASKED_LAYER, LAYERS = 1, 2, 5
FIRST, MASKED, FALSE, CROWD = 17, 31, 5, range(40, 52)
# The three rows of the first column, relative to the largest.
SHARES = (1.0, 0.7, -0.5)


@dataclass(frozen=True)
class Trigger:
    """What was planted. `false_pair` names the largest input and the largest output of the last layer."""

    first: tuple[Planted, ...]
    masked: Planted
    false_pair: Planted
    false_dominance: float


def trigger_llama(seed: int = 0) -> tuple[LlamaForCausalLM, Trigger]:
    """A tiny Llama of five layers with the whole plant, and what was planted."""
    model = tiny_model("llama", seed=seed, num_hidden_layers=LAYERS)
    return model, plant_trigger(model, seed)


def prompts(rows: int = 8, length: int = 24, seed: int = 0, bos: bool = True) -> torch.Tensor:
    """Random token ids `[rows, length]`, each row starting with the trigger token unless `bos` is False."""
    ids = token_ids(rows, length, seed)
    if bos:
        ids[:, 0] = BOS
    return ids


@torch.no_grad()
def plant_trigger(model: LlamaForCausalLM, seed: int = 0) -> Trigger:
    """Plant the trigger neuron with three rows, the masked second one and the late false pair.

    The first token alone gets a component along a direction `d` that nothing else writes. From its
    normalised state `s`, gate and up rows `a d / (d s)` make the activation `silu(a) a` there and 0
    elsewhere. Once the super activation stands, normalisation shrinks everything beside it, `d` too: that
    hides the second neuron until all rows of the first are gone.
    """
    channels = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(seed))[:4].tolist()
    flag = _mark_first_token(model, channels, seed)
    spike = _build_neuron(model, FIRST_LAYER, FIRST, flag, strength=6.0)
    masked_spike = _build_neuron(model, MASKED_LAYER, MASKED, flag, strength=6.0)
    size = 1000 * _median_output(model, FIRST_LAYER)
    masked = _write(model, MASKED_LAYER, MASKED, channels[0], size / masked_spike, masked_spike)
    first = tuple(
        _write(model, FIRST_LAYER, FIRST, channel, share * size / spike, spike)
        for channel, share in zip(channels, SHARES, strict=False)
    )
    false_pair, dominance = _plant_false_pair(model, channels)
    return Trigger(first, masked, false_pair, dominance)


def _mark_first_token(model: LlamaForCausalLM, free: list[int], seed: int) -> torch.Tensor:
    """A unit direction that the first token's embedding has and nothing else in the model writes.

    It leaves the channels in `free` alone, which the planted weights will write.
    """
    flag = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed + 1))
    flag[free] = 0
    flag /= flag.norm()
    embedding = model.model.embed_tokens.weight
    embedding -= torch.outer(embedding @ flag, flag)
    embedding[BOS] += 1.5 * flag
    for layer in model.model.layers:
        for written in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            written -= torch.outer(flag, flag @ written)
    return flag


def _plant_false_pair(model: LlamaForCausalLM, channels: list[int]) -> tuple[Planted, float]:
    """A strong neuron that writes a fifth of a spike which twelve weaker ones share out among them.

    All of them read the super activation itself, as the neurons of late layers that erase it do.
    """
    last, channel = LAYERS - 1, channels[3]
    massive = torch.zeros(HIDDEN)
    massive[channels[:3]] = torch.tensor(SHARES)
    spike = _build_neuron(model, last, FALSE, massive, strength=6.0)
    crowd = [_build_neuron(model, last, neuron, massive, strength=4.0) for neuron in CROWD]
    weight = 300 * _median_output(model, last) / sum(crowd)
    for neuron, activation in zip(CROWD, crowd, strict=True):
        _write(model, last, neuron, channel, weight, activation)
    planted = _write(model, last, FALSE, channel, 0.25 * weight * sum(crowd) / spike, spike)
    products = mlp_states(model, prompts(), last)[1][:, 0] * _down(model, last)[channel]
    return planted, (products[:, FALSE] / products.sum(-1)).max().item()


def _build_neuron(
    model: LlamaForCausalLM, layer: int, neuron: int, direction: torch.Tensor, strength: float
) -> float:
    """Make `neuron` read `direction` of the residual stream so that the first token excites it.

    Its column in the down-projection is made small, for the caller to write. Returns its activation there.
    """
    block = model.model.layers[layer]
    reading = direction / block.post_attention_layernorm.weight
    reading /= reading @ mlp_states(model, prompts(), layer)[0][:, 0].mean(0)
    block.mlp.gate_proj.weight[neuron] = strength * reading
    block.mlp.up_proj.weight[neuron] = strength * reading
    block.mlp.down_proj.weight[:, neuron] *= 0.05
    return mlp_states(model, prompts(), layer)[1][:, 0, neuron].mean().item()


def mlp_states(
    model: LlamaForCausalLM, input_ids: torch.Tensor, layer: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The normalised state `[rows, tokens, hidden]`, the neurons' activations and the output of one MLP."""
    kept: dict[str, torch.Tensor] = {}
    mlp = model.model.layers[layer].mlp
    hooks = [
        mlp.register_forward_hook(lambda _, args, out: kept.update(state=args[0], out=out)),
        mlp.down_proj.register_forward_pre_hook(lambda _, args: kept.update(neurons=args[0])),
    ]
    try:
        with torch.no_grad():
            model(input_ids=input_ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return kept["state"], kept["neurons"], kept["out"]


def _median_output(model: LlamaForCausalLM, layer: int) -> float:
    return mlp_states(model, prompts(bos=False), layer)[2].abs().median().item()


def _down(model: LlamaForCausalLM, layer: int) -> torch.Tensor:
    return model.model.layers[layer].mlp.down_proj.weight


def _write(model, layer: int, neuron: int, channel: int, value: float, spike: float) -> Planted:
    assert neuron < INNER
    _down(model, layer)[channel, neuron] = value
    name = f"model.layers.{layer}.mlp.down_proj.weight"
    return Planted(name, (channel, neuron), channel, neuron, None, value, spike, spike * value)
