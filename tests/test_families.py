"""The tiny models and the planted weights are what they claim: checked against transformers and by hand."""

from __future__ import annotations

import os

import pytest
import torch
from families import (
    HIDDEN,
    LARGEST,
    LAYERS,
    NOT_BUILT,
    NOT_OPENED,
    causal_model_types,
    save_tiny,
    tiny_config,
    tiny_model,
    token_ids,
)
from planting import block_of, change, down_projections, early_down_projection, plant, spread, storage
from transformers import AutoModelForCausalLM
from trigger import FALSE, FIRST, FIRST_LAYER, MASKED, MASKED_LAYER, mlp_states, prompts, trigger_llama
from trigger import LAYERS as TRIGGER_LAYERS

pytestmark = pytest.mark.tiny

# One of each way to build a block: dense, fused, parallel, transposed, post-norm, experts, recurrent.
# fmt: off
SAMPLE = [
    "llama", "gpt2", "gpt_neox", "phi3", "mixtral", "qwen3_moe", "gemma2", "gemma3_text", "gemma3", "olmo2",
    "falcon", "bloom", "mpt", "opt", "gpt_oss", "deepseek_v3", "granitemoehybrid", "jamba",
    "modernbert-decoder", "llama4_text", "dbrx", "bert", "gptj", "nemotron_h", "longcat_flash", "xlnet",
    "rwkv", "zamba2",
]
# fmt: on
TYPES = (
    [name for name in causal_model_types() if name not in NOT_BUILT]
    if os.environ.get("SUPERWEIGHTS_ALL_FAMILIES")
    else SAMPLE
)
WITHOUT_MLP = {"mamba", "mamba2", "falcon_mamba"}
WITH_MLP = [name for name in TYPES if name not in WITHOUT_MLP]
# Zamba's attention block has no residual of its own, its output is the input of a Mamba mixer; Gemma 3n
# mixes four streams after a norm, and only a part of the spike is left.
DAMPED = {"zamba", "zamba2", "gemma3n_text"}


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=ids, use_cache=False).logits


@torch.no_grad()
def output_of(model, module_name, ids):
    """What the first call of a module returned, `[tokens, hidden]`; a row for each stream where there are several."""
    kept = []
    hook = model.get_submodule(module_name).register_forward_hook(lambda _, args, out: kept.append(out))
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        hook.remove()
    return (kept[0][0] if isinstance(kept[0], tuple | list) else kept[0]).reshape(-1, HIDDEN)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_tiny_model_is_small_and_alive(model_type):
    model = tiny_model(model_type)
    assert sum(parameter.numel() for parameter in model.parameters()) < LARGEST
    out = logits(model, token_ids())
    assert torch.isfinite(out).all()
    assert out.std(-1).min() > 0.005, "the prediction must depend on the token"
    assert (out[0] - out[1]).abs().max() > 0.005, "and on the text"


@pytest.mark.parametrize("model_type", [name for name in TYPES if name not in NOT_OPENED])
def test_a_saved_model_opens_as_a_strangers_checkpoint(model_type, tmp_path):
    model = save_tiny(model_type, tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(logits(again, token_ids()), logits(model, token_ids()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", WITH_MLP)
def test_the_derivative_agrees_with_the_names_and_the_storage(model_type):
    """Whatever is named a down-projection writes one hidden channel with one line of its stored tensor."""
    model, channel = tiny_model(model_type), 11
    used = 0
    for name in down_projections(model):
        _, inputs = spread(model, name, token_ids(1, 8), channel)
        reached = inputs.abs().amax(0).nonzero()
        if len(reached):  # an expert that no token visits shows nothing
            used += 1
            assert reached[:, storage(model, name).out_axis].unique().tolist() == [channel], name
            assert len(reached[:, storage(model, name).in_axis].unique()) > 1, name
    assert used


@pytest.mark.parametrize("model_type", [name for name in WITH_MLP if name not in DAMPED])
def test_a_planted_weight_makes_its_block_write_a_massive_activation(model_type):
    model, ids = tiny_model(model_type), token_ids()
    block = "{}.{}".format(*block_of(early_down_projection(model)))
    before = change(model, block, ids)
    planted = plant(model, ids)
    after = change(model, block, ids)
    assert model.get_parameter(planted.parameter)[planted.index].item() == pytest.approx(planted.value)
    assert after.argmax() == planted.out_channel
    assert after[planted.out_channel] > 25 * after.median()
    assert before.max() < 8 * before.median()


def test_a_planted_product_is_the_output_it_claims():
    """`spike_in * value` is what the down-projection puts out: checked with the linear map by hand."""
    model, ids = tiny_model("llama"), token_ids()
    planted = plant(model, ids, seed=3)
    state = output_of(model, "model.layers.1.post_attention_layernorm", ids)
    mlp = model.model.layers[1].mlp
    with torch.no_grad():
        neurons = torch.nn.functional.silu(mlp.gate_proj(state)) * mlp.up_proj(state)
        out = neurons @ mlp.down_proj.weight.T
    token = neurons[:, planted.in_neuron].abs().argmax()
    assert neurons[token, planted.in_neuron].item() == pytest.approx(planted.spike_in, rel=1e-4)
    assert out[token, planted.out_channel].item() == pytest.approx(planted.spike_out, rel=0.01)


@pytest.mark.parametrize(
    ("model_type", "shape_as_stored"),
    [
        ("llama", (64, 96)),
        ("gpt2", (256, 64)),
        ("mixtral", (4, 64, 96)),
        ("gpt_oss", (4, 96, 64)),
        ("dbrx", (384, 64)),
    ],
)
def test_each_way_to_store_a_down_projection_occurs(model_type, shape_as_stored):
    model = tiny_model(model_type)
    name = early_down_projection(model)
    assert tuple(model.get_parameter(name).shape) == shape_as_stored
    planted = plant(model, token_ids())
    assert (planted.expert is None) == (model_type in ("llama", "gpt2"))
    assert planted.out_channel < HIDDEN


def test_the_reasons_name_types_that_exist():
    assert set(NOT_BUILT) | set(NOT_OPENED) <= set(causal_model_types())
    assert all(NOT_BUILT.values())
    assert all(NOT_OPENED.values())


def test_kinds_of_layers_all_occur():
    assert set(tiny_config("nemotron_h").layers_block_type) == {
        "linear_attention",
        "moe",
        "full_attention",
        "mlp",
    }
    assert tiny_config("deepseek_v32").mlp_layer_types == ["dense", "sparse", "sparse"]
    assert tiny_config("gpt_oss").num_hidden_layers == LAYERS


def test_the_same_seed_gives_the_same_model_and_another_does_not():
    one, two, other = (tiny_model("llama", seed=seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_trigger_fires_for_the_first_token_alone():
    model, plants = trigger_llama()
    _, neurons, out = mlp_states(model, prompts(seed=5), FIRST_LAYER)
    neuron = neurons[..., FIRST].abs()
    assert neuron[:, 0].min() > 5 * neurons.abs().median()
    assert neuron[:, 1:].max() < 1e-3
    rows = [planted.out_channel for planted in plants.first]
    assert out.abs().amax((0, 1)).topk(3).indices.tolist() == rows
    assert mlp_states(model, prompts(seed=5, bos=False), FIRST_LAYER)[2].abs().max() < 10


def test_the_second_super_weight_shows_only_once_the_first_is_gone():
    model, plants = trigger_llama()
    hidden = mlp_states(model, prompts(seed=5), MASKED_LAYER)[1][:, 0, MASKED].abs().max()
    with torch.no_grad():
        for planted in plants.first[:-1]:
            model.get_parameter(planted.parameter)[planted.index] = 0
    still = mlp_states(model, prompts(seed=5), MASKED_LAYER)[1][:, 0, MASKED].abs().max()
    with torch.no_grad():
        model.get_parameter(plants.first[-1].parameter)[plants.first[-1].index] = 0
    _, neurons, out = mlp_states(model, prompts(seed=5), MASKED_LAYER)
    assert hidden < 0.1
    assert still < 1
    assert neurons[:, 0, MASKED].min() > 30
    assert out.abs().amax((0, 1)).argmax() == plants.masked.out_channel


def test_the_false_pair_spikes_at_both_ends_and_dominates_nothing():
    model, plants = trigger_llama()
    _, neurons, out = mlp_states(model, prompts(seed=5), TRIGGER_LAYERS - 1)
    token = int(out[0].abs().amax(-1).argmax())
    assert neurons[0, token].abs().argmax() == FALSE == plants.false_pair.in_neuron
    assert out[0, token].abs().argmax() == plants.false_pair.out_channel
    weight = model.get_parameter(plants.false_pair.parameter)[plants.false_pair.index]
    shares = (
        neurons[0, token] * model.get_parameter(plants.false_pair.parameter)[plants.false_pair.out_channel]
    )
    assert weight * neurons[0, token, FALSE] / out[0, token].abs().max() < 0.3
    assert (shares / shares.sum()).max() < 0.3
    assert plants.false_dominance < 0.3
