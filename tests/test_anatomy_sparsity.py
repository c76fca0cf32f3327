"""Sparsity and drift: counts by hand, planted spikes and shifts, dead neurons; the embedded model's known spikes."""

from __future__ import annotations

import copy

import families
import pytest
import torch
from laid_open import answers

from superweights.errors import SuperweightsError
from superweights.interpretability import Study, ask
from superweights.interpretability.sparsity import SOFT, Sparsities, drift_of, reduction
from superweights.taps import Site, tapping

pytestmark = pytest.mark.unit


def test_a_shifted_matrix_has_drifted_and_a_symmetric_one_has_not():
    weights = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    still = drift_of(weights)
    assert abs(still.z) < 3
    assert still.negative == pytest.approx(0.5, abs=0.01)
    moved = drift_of(2 * weights - 0.2)
    assert moved.drift == pytest.approx(-0.1, abs=0.01)
    assert moved.z == pytest.approx(-0.1 * (400 * 300) ** 0.5, rel=0.1)
    assert drift_of(torch.zeros(3, 3)).drift == 0


@pytest.mark.tiny
@pytest.mark.parametrize(("kind", "activation"), [("llama", "silu"), ("opt", "relu"), ("gpt2", "gelu_new")])
def test_counts_and_spikes_are_those_of_the_neurons(kind, activation):
    model = families.tiny_model(kind)
    ids = torch.randint(3, families.VOCABULARY, (5, 12), generator=torch.Generator().manual_seed(0))
    (found,) = ask(model, ids, Sparsities(), batch_size=2)
    seen = {}
    with torch.no_grad(), tapping(model, {Site("mlp_act", 1): lambda h: seen.update(h=h.clone())}):
        model(input_ids=ids)
    neurons, layer = seen["h"], found.layers[1]
    assert found.activation == activation
    assert layer.zeros == pytest.approx((neurons == 0).double().mean().item())
    assert layer.soft_zeros == pytest.approx((neurons.abs() < SOFT).double().mean().item(), abs=1e-3)
    assert layer.negative == pytest.approx((neurons < 0).double().mean().item(), abs=1e-3)
    assert layer.spike_first == pytest.approx(neurons[:, 0].abs().max().item(), rel=1e-4)
    rest = neurons[:, 1:].abs()
    assert layer.spike == pytest.approx(rest.max().item(), rel=1e-4)
    assert layer.neuron == rest.amax((0, 1)).argmax().item()
    assert (layer.zeros > 0.2) == (activation == "relu"), "only ReLU has exact zeros"


@pytest.mark.tiny
def test_planted_drift_and_dead_neurons_are_seen_where_they_are():
    model = copy.deepcopy(families.tiny_model("opt"))
    block = model.model.decoder.layers[1]
    with torch.no_grad():
        block.fc2.weight.sub_(0.5 * block.fc2.weight.std())
        block.fc1.bias[:7] = -100  # ReLU never lets them through
    ids = torch.randint(3, families.VOCABULARY, (5, 12), generator=torch.Generator().manual_seed(0))
    (found,) = ask(model, ids, Sparsities())
    before = ask(families.tiny_model("opt"), ids, Sparsities())[0].layers[1].dead
    assert found.layers[1].dead >= max(7, before)
    down = [each for each in found.drifts if each.name == "down-projection"]
    assert [each.layer for each in down] == [0, 1, 2]
    assert down[1].drift == pytest.approx(-0.5, abs=0.1)
    assert {each.name for each in found.drifts} >= {"fc1", "self_attn.q_proj"}


@pytest.mark.tiny
def test_a_model_whose_neurons_cannot_be_seen_is_refused():
    with pytest.raises(SuperweightsError, match="neurons of"):
        Study(families.tiny_model("mixtral"), torch.ones(2, 8, dtype=torch.long)).ask(reduction(None))


@pytest.mark.real
def test_the_spikes_of_the_embedded_model_are_the_known_neurons():
    found = answers()["sparsity"]
    assert found.activation == "silu"
    known = {1: 83, 2: 90, 8: 1188, 9: 200, 11: 1229, 28: 678, 29: 999}
    assert {layer: found.layers[layer].neuron_first for layer in known} == known
    assert found.layers[11].spike_first == pytest.approx(3276, rel=0.02)
    assert all(each.zeros < 1e-5 for each in found.layers), "SiLU has no exact zeros"
    down = [each for each in found.drifts if each.name == "down-projection"]
    assert all(abs(each.drift) < 0.01 for each in down), "no drift in this model"
