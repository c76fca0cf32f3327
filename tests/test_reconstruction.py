"""Rounding block by block on a model's own text: less is lost, kept weights stay, and what cannot be done is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import save_tiny
from small import saved_llama
from transformers import AutoModelForCausalLM

import superweights
from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.quantization import Blocks, Scheme
from superweights.quantization.defaults import Rounding
from superweights.quantization.plan import Plan
from superweights.reconstruction import Sampling, own_samples, remembered_samples, rounded_plan
from superweights.reconstruction.chain import chain_of
from superweights.stream import streaming
from superweights.stream.linears import linear_tensors

pytestmark = pytest.mark.tiny

KEPT = Address("model.layers.0.mlp.down_proj.weight", (5, 7))
INT4 = {"grid": "int4", "blocks": Blocks("group", (32,))}
SMALL = Sampling(sequences=24, length=24)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    planted = {KEPT.tensor: {KEPT.index: 4.0}}
    return saved_llama(tmp_path_factory.mktemp("llama"), planted)


@pytest.fixture(scope="module")
def tokens(llama) -> torch.Tensor:
    with open_checkpoint(str(llama)) as checkpoint, streaming(checkpoint, resident=True) as model:
        return own_samples(model, None, SMALL)


def lost(folder: Path, plan: Plan, ids: torch.Tensor) -> float:
    """The error of the logits that transformers' own model gives with the rounded weights in it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        exact = model(ids).logits
        for name in plan.schemes:
            weight = model.get_parameter(name)
            weight.data = plan.round(name, weight.data).dequantize(torch.float32)
        return float((model(ids).logits - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", ["gemma2", "gptj"])
def test_the_model_loses_less_than_by_rounding_weights_alone_also_on_other_tokens(kind, tmp_path):
    folder = tmp_path / kind
    save_tiny(kind, folder)
    with open_checkpoint(str(folder)) as checkpoint, streaming(checkpoint, resident=True) as model:
        drawn = own_samples(model, None, SMALL)
        others = own_samples(model, None, Sampling(8, 32, seed=7))
        tensors = linear_tensors(checkpoint)
        plain = Plan.uniform(tensors, Scheme(**INT4, fit="centred"))
        fitted = rounded_plan(checkpoint, Plan.uniform(tensors, Scheme(**INT4, fit="second_order")), drawn)
    assert lost(folder, fitted, others) < 0.9 * lost(folder, plain, others)


def test_kept_weights_stay_and_the_bits_are_the_same(llama, tokens):
    scheme = Scheme(**INT4, fit="second_order")
    with open_checkpoint(str(llama)) as checkpoint:
        plan = Plan.uniform(linear_tensors(checkpoint), scheme, [KEPT])
        fitted = rounded_plan(checkpoint, plan, tokens)
        weight = checkpoint.read(KEPT.tensor)
        plain = Plan.uniform(linear_tensors(checkpoint), Scheme(**INT4, fit="centred"), [KEPT])
        ours, its = fitted.round(KEPT.tensor, weight), plain.round(KEPT.tensor, weight)
    assert ours.dequantize()[KEPT.index] == 4.0
    assert ours.stored_bits == its.stored_bits
    assert fitted.fingerprint() != plan.fingerprint()


def test_a_streamed_model_is_rounded_as_one_in_memory(llama, tokens, monkeypatch):
    scheme = Scheme(**INT4, fit="second_order")
    with open_checkpoint(str(llama)) as checkpoint:
        plan = Plan.uniform(linear_tensors(checkpoint), scheme, [KEPT])
        one = rounded_plan(checkpoint, plan, tokens)
        monkeypatch.setattr("superweights.stream.available_memory", lambda device: 0)
        other = rounded_plan(checkpoint, plan, tokens)
        for name in plan.schemes:
            weight = checkpoint.read(name)
            assert torch.equal(one.round(name, weight).codes, other.round(name, weight).codes)


def test_the_chain_of_blocks_ends_where_the_model_does(llama, tokens):
    with open_checkpoint(str(llama)) as checkpoint, streaming(checkpoint, resident=True) as model:
        chain = chain_of(model, tokens[:3])
        for path in chain.blocks:
            chain.hidden[0] = chain.through(path, 0)
        assert torch.equal(model.lm_head(model.model.norm(chain.hidden[0])), model(tokens[:3]).logits)


def test_own_text_is_that_of_the_seed_and_is_found_again(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERWEIGHTS_CACHE", str(tmp_path))
    with open_checkpoint(str(llama)) as checkpoint:
        once = remembered_samples(checkpoint, SMALL)
        assert once.shape == (24, 24)
        monkeypatch.setattr("superweights.reconstruction.samples.own_samples", None)
        assert torch.equal(remembered_samples(checkpoint, SMALL), once)
        monkeypatch.undo()
        monkeypatch.setenv("SUPERWEIGHTS_CACHE", str(tmp_path / "other"))
        assert torch.equal(remembered_samples(checkpoint, SMALL), once)
        assert not torch.equal(remembered_samples(checkpoint, Sampling(24, 24, seed=1)), once)


def test_drawn_tokens_are_as_frequent_as_the_model_says(llama):
    with open_checkpoint(str(llama)) as checkpoint, streaming(checkpoint, resident=True) as model:
        drawn = own_samples(model, None, Sampling(4000, 2, temperatures=(0.5,)))
        first = drawn[:, 0].mode().values
        after = drawn[drawn[:, 0] == first, 1]
        said = (model(first.reshape(1, 1)).logits[0, 0] / 0.5).softmax(-1)
    likely = int(said.argmax())
    share, spread = float((after == likely).float().mean()), float(said[likely] / len(after)) ** 0.5
    assert abs(share - float(said[likely])) < 4 * spread


def test_the_verb_rounds_for_drawn_text_and_says_so(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERWEIGHTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("superweights.verbs.quantize.Sampling", lambda seed: Sampling(8, 16, seed=seed))
    rounding = Rounding("int4", 32, fit="second_order")
    record = superweights.quantize(llama, tmp_path / "packed", rounding, keep=[KEPT], seed=3, check=None)
    assert record.findings.calibrated_on == "text that the model drew (seed 3): 8 sequences of 16 tokens"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.float32)
    assert model.model.layers[0].mlp.down_proj.weight[KEPT.index] == 4.0


def test_a_text_that_nothing_is_rounded_for_is_refused(llama, tmp_path):
    with pytest.raises(SuperweightsError, match="Nothing is calibrated on text"):
        superweights.quantize(llama, tmp_path / "packed", Rounding("int4", 32), calibrate_on="text.txt")
    assert not (tmp_path / "packed").exists()


def test_stacked_experts_are_refused_by_name(tmp_path):
    folder = tmp_path / "moe"
    save_tiny("gpt_oss", folder)
    with open_checkpoint(str(folder)) as checkpoint:
        plan = Plan.uniform(linear_tensors(checkpoint), Scheme(**INT4, fit="second_order"))
        with pytest.raises(SuperweightsError, match="its inputs are not seen"):
            rounded_plan(checkpoint, plan, torch.zeros(2, 8, dtype=torch.long))
