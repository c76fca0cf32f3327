"""Super weights put back beside quantized linears, by hooks and as a LoRA adapter that PEFT loads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from superweights.errors import SuperweightsError
from superweights.quantization import Blocks, Clip, Scheme, quantize_tensor
from superweights.quantization.adapter import write_adapter
from superweights.quantization.attach import attach, attached, corrections
from superweights.quantization.sidecar import SideCar, kept_weights

pytestmark = pytest.mark.tiny

DOWN = "model.layers.1.mlp.down_proj"
CRUDE = Scheme("int4", blocks=Blocks("tensor", ()), clip=Clip("z", 4))
TOKENS = torch.arange(14).reshape(2, 7)


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def peeled(model: LlamaForCausalLM) -> SideCar:
    """Two planted weights of one layer and one of another, as a side-car."""
    found = []
    for name, indices in {DOWN: [(5, 7), (9, 7)], "model.layers.0.mlp.down_proj": [(1, 40)]}.items():
        weight = model.get_submodule(name).weight.data
        for index in indices:
            weight[index] = 4.0
        found += kept_weights(f"{name}.weight", weight, indices)
    return SideCar(tuple(found), "unknown")


def rounded(model: LlamaForCausalLM, keep: SideCar | None = None) -> LlamaForCausalLM:
    """A copy whose down-projections are rounded so crudely that the planted weights are lost; or with them."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if name.endswith("down_proj"):
            plain = quantize_tensor(module.weight.data, CRUDE).dequantize()
            for kept in keep.weights if keep else ():
                if kept.address.tensor == f"{name}.weight":
                    plain[kept.address.index] = kept.value
            module.weight.data.copy_(plain)
    return model


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(TOKENS).logits


def test_attached_logits_are_those_of_the_weights_put_back_by_hand():
    model = llama()
    side_car = peeled(model)
    base, oracle = rounded(model), rounded(model, side_car)
    without = logits(base)
    with attached(base, side_car):
        assert torch.allclose(logits(base), logits(oracle), atol=1e-5)
        assert (logits(base) - without).abs().max() > 1e-2
    assert torch.equal(logits(base), without)


def test_corrections_are_the_difference_to_the_layer_s_own_weight():
    model = llama()
    side_car = peeled(model)
    base = rounded(model)
    for kept, correction in zip(side_car.weights, corrections(base, side_car), strict=True):
        weight = base.get_submodule(correction.module).weight.data[kept.address.index]
        assert correction.delta == pytest.approx(4 - float(weight), abs=1e-6)
        assert (correction.out_channel, correction.in_neuron) == kept.address.index
    assert all(abs(c.delta) < 1e-6 for c in corrections(model, side_car))


def test_a_layer_without_any_weight_tensor_is_corrected_through_its_answers():
    """Stands for kernels whose weights cannot be read: only `forward` and `in_features` exist."""

    class Opaque(nn.Module):
        def __init__(self, weight: torch.Tensor):
            super().__init__()
            self.in_features = weight.shape[1]
            self.packed = [quantize_tensor(weight, CRUDE)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.packed[0].dequantize()) + 0.25

    model = llama()
    side_car = peeled(model)
    oracle = rounded(model, side_car)
    oracle.get_submodule(DOWN).bias = nn.Parameter(torch.full((32,), 0.25))
    base = rounded(model)
    base.model.layers[1].mlp.down_proj = Opaque(model.get_submodule(DOWN).weight.data)
    with attached(base, side_car):
        assert torch.allclose(logits(base), logits(oracle), atol=1e-5)


def test_conv1d_is_corrected_where_its_file_is_transposed():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=2)).eval()
    name = "transformer.h.0.mlp.c_proj"
    module = model.get_submodule(name)
    assert isinstance(module, Conv1D)
    module.weight.data[100, 3] = 4.0
    side_car = SideCar(kept_weights(f"{name}.weight", module.weight.data, [(100, 3)], out_axis=1))
    exact = logits(model)
    module.weight.data[100, 3] = 0.0
    with attached(model, side_car):
        assert torch.allclose(logits(model), exact, atol=1e-5)


def test_attach_stays_until_its_hooks_are_removed():
    model = llama()
    side_car = peeled(model)
    base = rounded(model)
    without = logits(base)
    hooks = attach(base, side_car)
    assert not torch.equal(logits(base), without)
    for hook in hooks:
        hook.remove()
    assert torch.equal(logits(base), without)


def test_the_hooks_are_undone_when_the_body_raises():
    model = llama()
    side_car = peeled(model)
    base = rounded(model)
    without = logits(base)
    with pytest.raises(KeyError), attached(base, side_car):
        raise KeyError
    assert torch.equal(logits(base), without)


def test_another_base_is_refused():
    side_car = peeled(llama())
    with pytest.raises(SuperweightsError, match="not the layer"):
        corrections(llama(seed=1), side_car)
    narrow = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=8, intermediate_size=16, num_attention_heads=2)
    )
    with pytest.raises(SuperweightsError, match=r"hint: \S"):
        corrections(narrow, side_car)
    with pytest.raises(SuperweightsError, match="has no layer"):
        corrections(nn.Linear(4, 4), side_car)


def test_a_side_car_survives_json_and_damage_is_refused():
    side_car = peeled(llama())
    assert SideCar.from_json(side_car.to_json()) == side_car
    good = side_car.to_json()
    for text in ("", "[]", "{}", good[:-9], good.replace("[5, 7]", ""), good.replace('"value"', '"vale"')):
        with pytest.raises(SuperweightsError, match=r"hint:"):
            SideCar.from_json(text)


def test_a_stack_of_experts_cannot_be_attached_to():
    with pytest.raises(SuperweightsError, match="matrix"):
        kept_weights("experts", torch.ones(2, 3, 4), [(0, 1, 2)])


def test_peft_loads_the_adapter_and_gives_the_logits_of_the_exact_weights(tmp_path):
    peft = pytest.importorskip("peft", reason="the peft package is not installed")
    model = llama()
    side_car = peeled(model)
    base, oracle = rounded(model), rounded(model, side_car)
    without = logits(base)
    written = write_adapter(base, side_car, tmp_path / "adapter", base="some/base")
    assert len(written) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.allclose(logits(loaded), logits(oracle), atol=1e-5)
    assert (logits(loaded) - without).abs().max() > 1e-2
    merged = loaded.merge_and_unload()
    assert float(merged.get_submodule(DOWN).weight[5, 7].detach()) == pytest.approx(4, abs=1e-6)


def test_an_adapter_is_not_written_over_anything(tmp_path):
    model = llama()
    side_car = peeled(model)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").touch()
    with pytest.raises(SuperweightsError, match="not an empty folder"):
        write_adapter(model, side_car, tmp_path / "here")
    with pytest.raises(SuperweightsError, match="empty"):
        write_adapter(model, SideCar(()), tmp_path / "there")
    assert not (tmp_path / "there").exists()
