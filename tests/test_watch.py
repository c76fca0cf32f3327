"""The watch: every product with a parameter, and the parameter's own index of each element in it."""

from __future__ import annotations

import families
import pytest
import torch
from planting import down_projections
from torch import nn

from superweights.watch import watching

pytestmark = pytest.mark.tiny

FAMILIES = [
    "llama",
    "gpt2",
    "phi3",
    "mixtral",
    "qwen3_moe",
    "gpt_oss",
    "granitemoe",
    "dbrx",
    "llama4_text",
    "bloom",
]


def products_of(model, ids):
    seen = []
    with torch.no_grad(), watching(model, seen.append):
        model(ids)
    return seen


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_product_is_what_its_parameter_makes_of_its_input(model_type):
    """y = x W^T, and W[j, k] is the parameter's element at `index(j, k)`: checked on each product."""
    model = families.tiny_model(model_type)
    checked = []

    def check(product):  # at once: a model may go on to change its tensors in place
        if product.kind != "weight":
            return
        checked.append(product.parameter)
        weight = product.operand.float()
        expected = product.x.float() @ weight.T
        # the output may have a bias added by the same kernel
        offset = (product.y.float() - expected)[0]
        torch.testing.assert_close(product.y.float() - offset, expected, rtol=1e-4, atol=1e-4)
        j, k = weight.shape[0] - 1, weight.shape[1] // 2
        assert model.get_parameter(product.parameter)[product.index(j, k)] == weight[j, k]
        assert len(product.index(j, k)) == model.get_parameter(product.parameter).dim()

    with torch.no_grad(), watching(model, check):
        model(families.token_ids())
    assert checked


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_down_projection_is_seen(model_type):
    model = families.tiny_model(model_type)
    seen = {p.parameter for p in products_of(model, families.token_ids(4, 24)) if p.kind == "weight"}
    assert set(down_projections(model)) <= seen


@pytest.mark.parametrize("model_type", ["gemma3_text", "olmo2", "llama", "gpt2"])
def test_gains_are_seen_and_give_the_norms_output(model_type):
    """Also where the norm multiplies by `1 + weight`, or in one fused kernel."""
    model = families.tiny_model(model_type)
    gains = [p for p in products_of(model, families.token_ids()) if p.kind == "gain"]
    norms = {n for n, p in model.named_parameters() if "norm" in n or "ln_" in n if n.endswith("weight")}
    assert {p.parameter for p in gains} == norms
    for product in gains:
        assert model.get_parameter(product.parameter)[product.index(2)].dim() == 0


def test_biases_are_seen():
    model = families.tiny_model("gpt2")
    seen = {p.parameter for p in products_of(model, families.token_ids()) if p.kind == "bias"}
    assert "transformer.h.0.mlp.c_proj.bias" in seen
    assert "transformer.h.0.ln_1.bias" in seen


def test_a_watch_that_is_paused_sees_nothing():
    model, seen = families.tiny_model("llama"), []
    with torch.no_grad(), watching(model, seen.append) as watch:
        watch.paused = True
        model(families.token_ids())
    assert not seen


def test_products_without_a_parameter_are_not_seen():
    seen = []
    with watching(nn.Linear(3, 3), seen.append):
        torch.randn(2, 3) @ torch.randn(3, 3)
        nn.functional.linear(torch.randn(2, 3), torch.randn(4, 3))
    assert not seen


def test_memory_that_a_later_parameter_takes_over_is_not_mistaken():
    """Streamed blocks come and go, and the allocator gives the same memory to another parameter."""
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    seen = []
    with torch.no_grad(), watching(model, seen.append):
        x = torch.randn(2, 64)
        nn.functional.linear(x, model[0].weight)
        storage = model[0].weight.data
        model[0].weight = nn.Parameter(torch.empty(64, 64, device="meta"), requires_grad=False)
        model[1].weight = nn.Parameter(storage, requires_grad=False)
        nn.functional.linear(x, model[1].weight)
    assert [product.parameter for product in seen] == ["0.weight", "1.weight"]
