"""Bit budgets: the allotment against every combination, the sensitivities against rounding one matrix by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import saved_llama
from torch.nn import functional
from transformers import AutoModelForCausalLM

from superweights.address import Address
from superweights.budget import Choice, allot, candidates_for, check_plans, measuring, sensitivities
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.quantization import Scheme, quantize_tensor
from superweights.quantization.plan import Plan
from superweights.scoring.compare import kl_of_logits
from superweights.stream.linears import linear_tensors

pytestmark = pytest.mark.tiny

TENSOR = "model.layers.0.mlp.down_proj.weight"
KEPT = Address(TENSOR, (5, 7))
ANY = Scheme("int4")
IDS = torch.arange(64).reshape(4, 16)

losses = st.lists(st.floats(0, 10, allow_nan=False), min_size=3, max_size=3)


@pytest.mark.unit
@settings(max_examples=200, deadline=None)
@given(st.lists(losses, min_size=1, max_size=4), st.floats(2, 6))
def test_no_combination_of_as_many_bits_is_better_than_a_point_of_the_frontier(table, budget):
    """On every step of the frontier within the budget the allotment is the optimum of all combinations."""
    offers = {
        str(i): [Choice(ANY, bits * 10, loss) for bits, loss in zip((2, 4, 6), row, strict=True)]
        for i, row in enumerate(table)
    }
    found = allot(offers, dict.fromkeys(offers, 10), budget)
    assert found.bits_per_weight <= budget + 1e-9
    everything = list(itertools.product(*offers.values()))
    for step in found.frontier:
        bits = step.bits_per_weight * 10 * len(offers)
        best = min(
            sum(c.loss for c in each) for each in everything if sum(c.bits for c in each) <= bits + 1e-6
        )
        assert step.loss == pytest.approx(best, abs=1e-6)
    best = min(
        sum(c.loss for c in each)
        for each in everything
        if sum(c.bits for c in each) <= budget * 10 * len(offers) + 1e-9
    )
    largest = max((a.loss - b.loss for row in offers.values() for a in row for b in row), default=0)
    assert best - 1e-6 <= found.loss <= best + largest + 1e-6


@pytest.mark.unit
def test_a_budget_below_the_smallest_choices_is_refused():
    with pytest.raises(SuperweightsError, match="too few"):
        allot({"a": [Choice(ANY, 30, 1.0)]}, {"a": 10}, 2.5)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("llama"), {TENSOR: {KEPT.index: 8.0}}, initializer_range=0.3)


def test_a_sensitivity_is_the_divergence_that_rounding_the_matrix_makes(llama):
    with open_checkpoint(str(llama)) as checkpoint:
        found = {
            each.tensor: each
            for each in sensitivities(checkpoint, linear_tensors(checkpoint), IDS, keep=[KEPT])
        }
        original = checkpoint.read(TENSOR).clone()
    assert len(found) == 14
    model = AutoModelForCausalLM.from_pretrained(llama, dtype="float32").eval()
    scheme = candidates_for("packed")[1]
    quantized = quantize_tensor(original, scheme, [KEPT.index])
    with torch.no_grad():
        before = functional.log_softmax(model(IDS).logits[:, :-1], -1)
        model.get_parameter(TENSOR).data.copy_(quantized.dequantize())
        after = functional.log_softmax(model(IDS).logits[:, :-1], -1)
    kl = (before.exp() * (before - after)).sum(-1).mean().item()
    one = found[TENSOR]
    assert one.measured == pytest.approx(kl, rel=1e-4)
    assert one.choices[one.at].loss == pytest.approx(kl, rel=1e-4)
    assert one.choices[one.at].bits == quantized.stored_bits.total
    sizes = [choice.loss for choice in one.choices]
    assert sizes == sorted(sizes, reverse=True), "more bits, less loss"


def test_a_model_whose_blocks_are_no_chain_gives_the_same_numbers_matrix_by_matrix(llama, monkeypatch):
    with open_checkpoint(str(llama)) as checkpoint:
        tensors = linear_tensors(checkpoint)
        fast = sensitivities(checkpoint, tensors, IDS, keep=[KEPT])
        monkeypatch.setattr(measuring, "divergences_in_blocks", lambda *_: None)
        slow = sensitivities(checkpoint, tensors, IDS, keep=[KEPT])
    assert [each.measured for each in fast] == pytest.approx([each.measured for each in slow], rel=1e-4)
    assert [each.tensor for each in fast] == [each.tensor for each in slow]


@pytest.mark.unit
def test_the_divergence_in_small_steps_is_the_divergence():
    logits = 4 * torch.randn(7, 300_000, generator=torch.Generator().manual_seed(0))
    other = logits + 0.1 * torch.randn(7, 300_000, generator=torch.Generator().manual_seed(1))
    other[3] = -300.0 * torch.arange(300_000) / 300_000  # far apart: some p leave float32
    p, q = (each.double().log_softmax(-1) for each in (logits, other))
    found = kl_of_logits(functional.log_softmax(logits, -1), other)
    torch.testing.assert_close(found.double(), (p.exp() * (p - q)).sum(-1), rtol=1e-3, atol=1e-5)


def test_the_model_is_as_it_was_after_a_plan_was_checked(llama):
    with open_checkpoint(str(llama)) as checkpoint:
        plan = Plan.uniform(linear_tensors(checkpoint), Scheme("int2"), [KEPT])
        first, second = check_plans(checkpoint, [plan, plan], IDS)
    assert first.kl.value == second.kl.value > 0.01
    assert first.base.value == second.base.value


def test_the_command_saves_a_plan_that_quantize_takes(llama, tmp_path, capsys):
    plan, plot = tmp_path / "plan.json", tmp_path / "frontier.svg"
    command = [
        "plan",
        str(llama),
        "--bits",
        "4.6",
        "--keep",
        str(KEPT),
        "--window",
        "16",
        "--save",
        str(plan),
    ]
    assert run([*command, "--plot", str(plot), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = said["findings"]
    assert found["bits_per_weight"] <= 4.6
    assert [each["super_weights"] for each in found["matrices"] if each["tensor"] == TENSOR] == [[str(KEPT)]]
    assert len(found["uniform"]) == 2
    assert plot.read_text().startswith("<svg")
    assert run(["quantize", str(llama), "--plan", str(plan), "--to", str(tmp_path / "q")]) == 0
    with open_checkpoint(str(tmp_path / "q")) as packed:
        assert packed.config["quantization_config"]["quant_method"] == "superweights"
    capsys.readouterr()
    assert run(command) == 0
    assert "one scheme for all" in capsys.readouterr().out


REFUSED = {
    "too few bits": (["--bits", "1"], "too few"),
    "a format without plans": (["--format", "exl2"], "no plan for the format 'exl2'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_planned_is_refused(case, llama, tmp_path, capsys):
    options, words = REFUSED[case]
    command = ["plan", str(llama), "--keep", "none", "--window", "16", "--save", str(tmp_path / "p.json")]
    assert run([*command, *options]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "hint:" in said
    assert not (tmp_path / "p.json").exists()
