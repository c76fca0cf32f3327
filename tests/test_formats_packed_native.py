"""Products with packed weights by compiled code: torch's numbers, kept weights exact, torch's kernels without it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import saved_llama
from transformers import AutoModelForCausalLM

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.formats.packed import native
from superweights.formats.packed.halves import HalfEmbedding, HalfLinear
from superweights.formats.packed.kernels import kernel_of
from superweights.formats.packed.native import NativeInt4, library, multiply_bfloat16
from superweights.formats.packed.writing import write_packed
from superweights.quantization import Blocks, Scheme, quantize_tensor
from superweights.quantization.plan import Plan
from superweights.stream.linears import linear_tensors

pytestmark = pytest.mark.tiny

KEPT = Address("model.layers.0.mlp.gate_proj.weight", (5, 7))
INT4 = Scheme("int4", blocks=Blocks("group", (32,)), fit="centred")


@pytest.fixture
def compiled():
    if library() is None:
        pytest.skip("there is no compiler here")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("group", "inputs"), [(32, 384), (32, 96), (64, 384), (192, 384), (None, 384)])
def test_products_are_those_of_the_dense_matrix_in_float32(compiled, group, inputs, rows):
    blocks = Blocks("channel", ()) if group is None else Blocks("group", (group,))
    quantized = quantize_tensor(drawn(70, inputs), Scheme("int4", blocks=blocks, fit="centred"))
    held, x = NativeInt4.of(quantized), drawn(rows, inputs, seed=1) * 100
    assert held is not None
    exact = x.double() @ quantized.dequantize(torch.float64).T
    assert (held.multiply(x) - exact).norm() < 1e-6 * exact.norm()
    assert (held.dequantize(torch.float32) - quantized.dequantize(torch.float32)).abs().max() < 1e-6


def test_a_super_activation_costs_no_more_than_float32_itself(compiled):
    quantized = quantize_tensor(drawn(64, 128), INT4)
    held, x = NativeInt4.of(quantized), drawn(1, 128, seed=1) * 0.01
    x[0, 3] = 4096.0
    weight = quantized.dequantize(torch.float32)
    exact = x.double() @ weight.double().T
    assert held is not None
    ours, torchs = ((y.double() - exact).abs().max() for y in (held.multiply(x), x @ weight.T))
    assert ours < 4 * torchs + 1e-6


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme("int4", blocks=Blocks("group", (48,))),
        Scheme("int4", blocks=Blocks("group", (32,)), zero_point="none"),
        Scheme("int4", blocks=Blocks("group", (32,)), scale_dtype="float32"),
        Scheme("int3", blocks=Blocks("group", (32,))),
    ],
    ids=str,
)
def test_what_it_would_not_hold_number_by_number_is_left_to_others(scheme):
    assert NativeInt4.of(quantize_tensor(drawn(64, 192), scheme)) is None


@pytest.mark.parametrize("rows", [1, 3])
def test_bfloat16_weights_are_multiplied_in_float32(compiled, rows):
    x, weight = drawn(rows, 96), drawn(100, 96, seed=1).bfloat16()
    y = multiply_bfloat16(x, weight)
    assert y is not None
    exact = x.double() @ weight.double().T
    assert (y - exact).norm() < 1e-6 * exact.norm()
    assert multiply_bfloat16(drawn(64, 96), weight) is None


def test_without_a_compiler_it_is_not_used_and_the_product_is_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "library", lambda: None)
    assert not isinstance(kernel_of(quantize_tensor(drawn(64, 128), INT4), torch.bfloat16), NativeInt4)
    assert multiply_bfloat16(drawn(1, 96), drawn(100, 96).bfloat16()) is None
    model = AutoModelForCausalLM.from_pretrained(packed(tmp_path, halves=True), dtype=torch.float32)
    ids = torch.arange(20).reshape(1, 20)
    with torch.no_grad():
        without = model(ids).logits
        monkeypatch.undo()
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.float32)
        assert torch.allclose(again(ids).logits, without, atol=1e-4)


def test_a_compiler_that_fails_is_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("SUPERWEIGHTS_CACHE", str(tmp_path))
    failing = subprocess.CalledProcessError(1, ["cc"])

    def run(*_, **__):
        raise failing

    monkeypatch.setattr(native.subprocess, "run", run)
    assert native.library.__wrapped__() is None
    assert not list(tmp_path.rglob("*.so"))


def packed(tmp_path: Path, halves: bool = False) -> Path:
    folder = saved_llama(tmp_path / "llama", {KEPT.tensor: {KEPT.index: 4.0}}, tie_word_embeddings=True)
    with open_checkpoint(str(folder)) as checkpoint:
        plan = Plan.uniform(linear_tensors(checkpoint), INT4, [KEPT])
        narrowed = {"model.embed_tokens.weight": "bfloat16"} if halves else {}
        return write_packed(checkpoint, replace(plan, narrowed=narrowed), tmp_path / "packed").folder


def test_a_packed_model_decodes_as_its_dense_form_does_with_halves_kept_as_halves(compiled, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(packed(tmp_path, halves=True), dtype=torch.float32)
    assert isinstance(model.model.embed_tokens, HalfEmbedding)
    assert isinstance(model.lm_head, HalfLinear)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.float32)
    dense.model.embed_tokens.weight.data = dense.model.embed_tokens.weight.data.bfloat16().float()
    for name, layer in model.named_modules():
        if hasattr(layer, "packing"):
            dense.get_submodule(name).weight.data = layer.weight.clone()
    ids = torch.arange(20).reshape(1, 20)
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, dense(ids).logits, atol=1e-4)
        step = model(ids[:, :12], use_cache=True)
        for at in range(12, 20):
            step = model(ids[:, at : at + 1], past_key_values=step.past_key_values, use_cache=True)
        assert torch.allclose(step.logits[0, -1], dense(ids).logits[0, -1], atol=1e-4)
    gate = model.model.layers[0].mlp.gate_proj
    assert isinstance(gate._kernel, NativeInt4)
    one = torch.zeros(1, 64)
    one[0, KEPT.index[1]] = 1
    assert gate(one)[0, KEPT.index[0]].item() == pytest.approx(4.0, abs=1e-6)


def test_numbers_that_are_no_bfloat16_stay_float32(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(packed(tmp_path), dtype=torch.float32)
    assert type(model.lm_head) is torch.nn.Linear
