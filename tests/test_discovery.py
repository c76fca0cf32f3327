"""The discovery: planted super weights at known places, models without any, and the embedded model."""

from __future__ import annotations

import dataclasses
import json
import math

import families
import pytest
import torch
import trigger
from planting import plant
from small import embedded_folder

from superweights.address import Address
from superweights.branch import Branch
from superweights.checkpoint import open_checkpoint
from superweights.discovery import Findings, Search, find
from superweights.discovery.proof import Bars, judge
from superweights.discovery.published import PROMPT, find_as_published
from superweights.discovery.trials import Trial
from superweights.errors import SuperweightsError
from superweights.record import (
    LARGEST,
    RANDOM_COLUMN,
    RANDOM_ROW,
    RANDOM_TENSOR,
    Control,
    Score,
    student,
    to_json_line,
)

FIRST_SUPER_WEIGHT = Address("model.layers.11.mlp.down_proj.weight", (507, 1229))


def nats(value, error, n=8):
    return Score("loss", value, "nats/token", n, error)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("interval", "beyond", "verdict"),
    [
        ((1.8, 2.2), [(1.7, 2.1)], "critical"),
        ((0.6, 1.0), [], "partial"),  # it reaches below ln 2, and certainly matters
        ((0.2, 0.4), [(0.1, 0.4)], "partial"),
        ((-0.1, 0.7), [], "undecided"),  # it may cost nothing, or half of what a super weight costs
        ((0.2, 0.4), [(-0.1, 0.2)], "undecided"),  # its whole row may be like that
        ((0.2, 0.4), [(-0.4, -0.1)], "benign"),  # others of its row cost more
        ((-0.1, 0.04), [], "benign"),
        ((math.inf, math.inf), [], "critical"),  # without it the model gives no number at all
    ],
)
def test_a_verdict_needs_its_whole_interval_on_one_side_of_the_bar_and_of_the_controls(
    interval, beyond, verdict
):
    assert judge(interval, beyond, Bars()) == verdict


@pytest.mark.unit
def test_intervals_are_students():
    low, high = nats(0.0, 1.0, n=8).interval()
    assert (high, low) == pytest.approx((2.364624, -2.364624), abs=1e-5)  # the tables' quantile for 7
    assert nats(0.0, 1.0, n=100_000).interval()[1] == pytest.approx(1.96, abs=1e-3)
    assert [round(student(freedom), 4) for freedom in (1, 2, 3, 31)] == [12.7062, 4.3027, 3.1824, 2.0395]


@pytest.mark.unit
def test_a_trial_is_compared_window_by_window():
    noisy, same = Trial(Branch), Trial(Branch)
    noisy.note(range(4), torch.tensor([5.0, 1.0, 3.0, 9.0]))
    same.note(range(2, 5), torch.tensor([2.0, 8.0, 0.0]))
    beyond = noisy.beyond(same, "more")
    assert (beyond.value, beyond.standard_error, beyond.n) == (1.0, 0.0, 2)
    assert Trial(Branch).interval() == (-math.inf, math.inf)


@pytest.mark.unit
def test_a_model_without_a_number_has_lost_everything():
    trial = Trial(Branch)
    trial.note(range(3), torch.tensor([math.nan] * 3))
    assert judge(trial.interval()) == "critical"
    assert json.loads(to_json_line(trial.score("loss rise")))["n"] == 3


# --- planted super weights ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def triggered(tmp_path_factory):
    """A tiny Llama with a triggered column of three rows, a masked second one and a false pair; and its search."""
    folder = tmp_path_factory.mktemp("trigger")
    model, planted = trigger.trigger_llama()
    model.save_pretrained(folder)
    with open_checkpoint(str(folder)) as checkpoint:
        found = find(checkpoint, token_ids=trigger.prompts())
    return folder, planted, found


def address_of(planted):
    return Address(planted.parameter, planted.index)


@pytest.mark.tiny
def test_every_row_of_a_triggered_column_is_found_in_one_pass(triggered):
    _, planted, found = triggered
    first_round = {c.address for c in found.candidates if c.round == 1}
    rows = sorted(planted.first, key=lambda p: -abs(p.spike_out))
    assert {address_of(p) for p in rows[:2]} <= first_round
    assert {address_of(p) for p in rows} <= {c.address for c in found.candidates}


@pytest.mark.tiny
def test_a_masked_super_weight_is_found_when_the_first_are_removed(triggered):
    _, planted, found = triggered
    (masked,) = [c for c in found.candidates if c.address == address_of(planted.masked)]
    assert masked.round > 1
    assert abs(masked.effect.value) < 1e-2  # alone it does nothing: it is silent while the first stand


@pytest.mark.tiny
def test_input_and_output_spikes_of_different_neurons_are_not_paired(triggered):
    _, planted, found = triggered
    assert address_of(planted.false_pair) not in {c.address for c in found.candidates}


@pytest.mark.tiny
def test_without_the_trigger_token_nothing_is_found(triggered):
    folder, planted, _ = triggered
    with open_checkpoint(str(folder)) as checkpoint:
        found = find(checkpoint, token_ids=trigger.prompts(bos=False))
    planted_ones = {address_of(p) for p in (*planted.first, planted.masked)}
    assert not planted_ones & {c.address for c in found.candidates}
    assert found.verdict in ("none", "benign", "undecided")


@pytest.mark.tiny
def test_what_is_reported_is_what_was_planted(triggered):
    _, planted, found = triggered
    by_address = {c.address: c for c in found.candidates}
    largest = max(planted.first, key=lambda p: abs(p.spike_out))
    candidate = by_address[address_of(largest)]
    assert candidate.value == pytest.approx(largest.value, rel=1e-5)
    assert (candidate.out_channel, candidate.in_neuron) == (largest.out_channel, largest.in_neuron)
    assert candidate.spike_in * candidate.value == pytest.approx(candidate.dominance * candidate.spike_out)
    assert candidate.position == 0
    assert candidate.role == "writes"


@pytest.mark.tiny
@pytest.mark.parametrize(
    "model_type", ["llama", "gpt2", "mixtral", "gpt_oss", "olmo2", "phi3", "falcon", "jamba"]
)
def test_a_planted_super_weight_is_found_by_the_checkpoints_own_name(model_type, tmp_path):
    model, ids = families.tiny_model(model_type), families.token_ids(8, 12)
    planted = plant(model, ids)
    model.save_pretrained(tmp_path)
    with open_checkpoint(str(tmp_path)) as checkpoint:
        found = find(checkpoint, token_ids=ids)
        hits = [c for c in found.candidates if c.parameter == planted.parameter]
        values = [checkpoint.element(c.address.tensor, c.address.index) for c in hits]
    assert any(value == pytest.approx(planted.value, rel=1e-5) for value in values)


@pytest.mark.tiny
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "gemma3_text", "opt", "qwen3_moe"])
def test_a_random_model_has_no_critical_super_weight(model_type, tmp_path):
    families.save_tiny(model_type, tmp_path)
    with open_checkpoint(str(tmp_path)) as checkpoint:
        found = find(checkpoint, token_ids=families.token_ids(8, 12))
    assert found.verdict in ("none", "benign")


@pytest.mark.tiny
def test_findings_and_super_weights_round_trip_through_json(triggered):
    found = triggered[2]
    again = Findings.from_json(json.loads(json.dumps(found.to_json())))
    assert again.candidates == found.candidates
    assert again.layers == found.layers
    assert again.joint == found.joint


@pytest.mark.tiny
def test_nan_weights_are_named(tmp_path):
    model = families.tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 4] = float("nan")
    model.save_pretrained(tmp_path)
    with open_checkpoint(str(tmp_path)) as checkpoint:
        with pytest.raises(SuperweightsError, match=r"NaN or infinity at model\.layers\.1\.mlp\.down_proj"):
            find(checkpoint, token_ids=families.token_ids())


@pytest.mark.tiny
def test_without_a_tokenizer_it_runs_on_token_ids_and_says_so(tmp_path):
    families.save_tiny("llama", tmp_path)
    with open_checkpoint(str(tmp_path)) as checkpoint:
        assert checkpoint.tokenizer() is None
        found = find(checkpoint)
    assert any("no tokenizer" in note for note in found.notes)


# --- the embedded model ---------------------------------------------------------------------------------

QUICK = Search(windows=4, rounds=1)


@pytest.fixture(scope="module")
def embedded():
    embedded_folder()
    return find(None, QUICK)


@pytest.mark.real
def test_the_embedded_models_super_weight_is_critical(embedded):
    by_address = {c.address: c for c in embedded.candidates}
    first = by_address[FIRST_SUPER_WEIGHT]
    assert first.verdict == "critical"
    assert first.value == pytest.approx(5.876, abs=0.01)
    assert first.spike_out > 20_000
    second = by_address[Address("model.layers.2.mlp.down_proj.weight", (507, 90))]
    assert second.value == pytest.approx(5.094, abs=0.01)
    assert second.effect.value > 0.1
    assert second.effect_with_others.value > 2 * second.effect.value


@pytest.mark.real
def test_the_spikes_of_the_last_layers_erase_and_are_benign(embedded):
    late = {c.layer: c for c in embedded.candidates if c.layer >= 28 and c.out_channel == 507}
    assert set(late) == {28, 29}
    assert {c.role for c in late.values()} == {"erases"}
    assert {c.verdict for c in late.values()} == {"benign"}


@pytest.mark.real
def test_the_residual_steps_are_where_they_were_measured(embedded):
    phases = {layer.layer: layer.phase for layer in embedded.layers}
    assert [n for n, phase in phases.items() if phase == "step_up" and n > 2] == [11]
    assert {28, 29} <= {n for n, phase in phases.items() if phase == "step_down"}
    assert all(phases[n] == "plateau" for n in range(12, 28))
    assert {layer.channel for layer in embedded.layers if 1 <= layer.layer <= 28} == {507}


@pytest.mark.real
def test_controls_of_the_super_weight_cost_nothing_like_it(embedded):
    first = next(c for c in embedded.candidates if c.address == FIRST_SUPER_WEIGHT)
    assert {c.kind for c in first.controls} == {RANDOM_TENSOR, RANDOM_COLUMN, RANDOM_ROW, LARGEST}
    judged = [c.score.value for c in first.controls if c.judges]
    assert max(judged) < 0.1 * first.effect.value


def with_read(checkpoint, tensor, change):
    """The checkpoint as if `tensor` were stored changed."""
    held = checkpoint.read(tensor).clone()
    change(held)
    original = checkpoint.read
    object.__setattr__(checkpoint, "read", lambda name: held.clone() if name == tensor else original(name))
    return checkpoint


@pytest.mark.real
def test_a_shuffled_down_projection_has_no_critical_weight():
    """The same values in another order: size alone makes no super weight."""
    embedded_folder()

    def shuffle(weight):
        order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(0))
        weight.copy_(weight.flatten()[order].view_as(weight))

    with open_checkpoint(None) as checkpoint:
        changed = with_read(checkpoint, FIRST_SUPER_WEIGHT.tensor, shuffle)
        found = find(changed, dataclasses.replace(QUICK, rounds=0, windows=0))
    assert not [
        c
        for c in found.candidates
        if c.verdict == "critical" and c.address.tensor == FIRST_SUPER_WEIGHT.tensor
    ]


@pytest.mark.real
def test_the_published_procedure_finds_the_same_weight_and_false_pairs():
    embedded_folder()
    with open_checkpoint(None) as checkpoint:
        found = find_as_published(checkpoint)
    by_address = {c.address: c for c in found}
    assert by_address[FIRST_SUPER_WEIGHT].dominance == pytest.approx(0.72, abs=0.05)
    assert by_address[FIRST_SUPER_WEIGHT].verdict is None
    assert PROMPT == "Apple Inc. is a worldwide tech company."


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "kind"),
    [("8 random", RANDOM_TENSOR), ("1 largest other", LARGEST), ("8 others of its column", RANDOM_COLUMN)],
)
def test_a_control_of_an_old_record_gets_the_kind_that_its_label_told(name, kind):
    old = {"name": name, "value": 0.1, "unit": "nats/token", "n": 8, "standard_error": 0.01}
    read = Control.from_json(old)
    assert (read.kind, read.score) == (kind, Score(**old))
    assert Control.from_json(json.loads(json.dumps(dataclasses.asdict(read)))) == read
