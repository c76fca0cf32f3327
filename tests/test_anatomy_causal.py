"""Interventions of anatomy: what they change and nothing else, their controls; the embedded model's known costs."""

from __future__ import annotations

import families
import pytest
import torch
from laid_open import prose, study
from test_anatomy_massive import CHANNEL, ids, planted

from superweights.address import Address
from superweights.editing import edited, zero
from superweights.errors import SuperweightsError
from superweights.interpretability import SinkReduction, Study, ask
from superweights.interpretability.contributions import interventions as contributions
from superweights.interpretability.contributions.interventions import CONTROL, compared
from superweights.interpretability.interventions import Trials, random_weights, silenced, tapped
from superweights.interpretability.massive import interventions as massive
from superweights.interpretability.massive.interventions import _capped
from superweights.interpretability.massive.wemask import masked_sink
from superweights.interpretability.sinks import interventions as sinks
from superweights.taps import SuperActivation, assigned, record_activations, tapping, zeroed

pytestmark = pytest.mark.tiny

DOWN = "model.layers.1.mlp.down_proj.weight"


def test_the_tested_model_is_left_as_it_was_and_controls_stand_beside_every_change():
    model, _ = planted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tested = massive.investigate(Study(model, ids(6)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for outcomes in (tested.activations, tested.making, tested.masking):
        kinds = [outcome.control for outcome in outcomes]
        assert outcomes[0].loss.value == 0
        assert kinds.count(True) >= 1
        assert kinds.count(False) >= 2
    assert f"({CHANNEL})" in tested.activations[1].name
    assert [sheet.title for sheet in tested.sheets()][2].endswith("after layer 1 replaced")


def test_the_cap_brings_large_tokens_to_the_others_median_and_leaves_the_rest():
    neurons = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    neurons[:, 0] *= 100
    (cap,) = _capped(1, 0).values()
    rms, capped = (each.square().mean(-1).sqrt() for each in (neurons, cap(neurons)))
    limit = rms[:, 1:].median(1).values
    assert capped[:, 0].tolist() == pytest.approx(limit.tolist())
    assert torch.allclose(capped[:, 1:], rms[:, 1:].minimum(limit[:, None]))


def test_a_model_without_massive_activations_is_answered_without_interventions():
    tested = massive.investigate(Study(families.tiny_model("llama"), ids(4)))
    assert tested.activations == tested.making == tested.masking == ()
    assert len(tested.sheets()) == 2


def test_the_mean_needs_other_windows():
    with pytest.raises(SuperweightsError, match="One window"):
        massive.investigate(Study(planted()[0], ids(1)))


def test_the_mask_hits_the_first_token_and_not_each_new_one_with_a_cache():
    model = families.tiny_model("llama")
    row = ids(1, 12)
    with torch.no_grad():
        plain = model(input_ids=row).logits
        with masked_sink(model, 0, 0.25):
            whole = model(input_ids=row, use_cache=False).logits
            cached, logits = None, []
            for token in row[0]:
                out = model(input_ids=token[None, None], past_key_values=cached, use_cache=True)
                cached = out.past_key_values
                logits.append(out.logits[:, 0])
        assert torch.allclose(torch.stack(logits, 1), whole, atol=1e-5)
        assert not torch.allclose(whole, plain, atol=1e-3)
        assert torch.equal(model(input_ids=row).logits, plain), "the mask is gone"


def test_the_mask_zeroes_the_largest_channels_of_that_token_alone():
    model, seen = families.tiny_model("llama"), {}
    norm = model.model.layers[1].input_layernorm
    with torch.no_grad():
        handle = norm.register_forward_hook(lambda *called: seen.update(before=called[2]))
        with masked_sink(model, 0, 0.25):
            late = norm.register_forward_hook(lambda *called: seen.update(after=called[2]))
            model(input_ids=ids(2))
        late.remove()
        handle.remove()
    changed = seen["before"] != seen["after"]
    assert not changed[:, 1:].any()
    assert changed[:, 0].sum(-1).tolist() == [16, 16]
    for row in range(2):
        largest = seen["before"][row, 0].abs().topk(16).indices
        assert not seen["after"][row, 0, largest].any()


def test_masks_of_nothing_and_models_without_pre_norms_are_refused():
    model = families.tiny_model("llama")
    with (
        pytest.raises(SuperweightsError, match="masks 0 of 64"),
        masked_sink(model, 0, 0.001),
        torch.no_grad(),
    ):
        model(input_ids=ids(1))
    with pytest.raises(SuperweightsError, match="No layer after 2"), masked_sink(model, 2, 0.1):
        pass
    with (
        pytest.raises(SuperweightsError, match="No layer after 0"),
        masked_sink(families.tiny_model("olmo2"), 0, 0.1),
    ):
        pass


def test_a_silenced_head_is_the_same_as_an_output_projection_without_its_columns():
    model = families.tiny_model("llama")
    with torch.no_grad(), tapping(model, silenced([(1, 2), (1, 3), (0, 1)])):
        tapped_logits = model(input_ids=ids()).logits
    size = 16
    with torch.no_grad():
        for layer, head in ((1, 2), (1, 3), (0, 1)):
            model.model.layers[layer].self_attn.o_proj.weight[:, head * size : (head + 1) * size] = 0
        assert torch.allclose(model(input_ids=ids()).logits, tapped_logits, atol=1e-5)


def test_random_weights_are_others_of_the_same_tensors_and_the_same_for_a_seed():
    model = families.tiny_model("llama")
    weights = (Address(DOWN, (3, 5)), Address(DOWN, (0, 0)))
    drawn = random_weights(model, weights, 1)
    assert drawn == random_weights(model, weights, 1) != random_weights(model, weights, 2)
    assert len({*drawn, *weights}) == 4
    with edited(model, zero(drawn)) as changes:
        pass
    assert {change.parameter for change in changes} == {DOWN}


def test_sinks_without_weights_that_are_unknown_are_refused_and_known_ones_are_removed_in_turn():
    model, neuron = planted()
    with pytest.raises(SuperweightsError, match="No super weight of this model is known"):
        sinks.investigate(Study(model, ids()))
    weights = (Address(DOWN, (CHANNEL, neuron)), Address(DOWN, (0, 0)))
    found = sinks.investigate(Study(model, ids(), weights=weights))
    assert len(found.removals) == len(found.sinks) == 5
    assert [outcome.control for outcome in found.removals] == [False, False, False, False, True]
    assert found.removals[1].measured["weight there"] != found.removals[0].measured["weight there"]
    assert [outcome.control for outcome in found.heads] == [False, False, True]
    assert "control" in found.sheets()[1].rows[-1][0]


def test_what_is_left_of_a_text_is_what_the_rank_says():
    model, rows = families.tiny_model("llama"), ids(3, 10)
    rank = torch.rand(3, 9, generator=torch.Generator().manual_seed(1))
    falls = compared(model, rows, {"one": [rank]}, 4)
    with torch.no_grad():
        before = model(input_ids=rows).logits[:, -1].log_softmax(-1)
        for row in range(3):
            best = sorted(rank[row].topk(4).indices.tolist())
            rest = [n for n in range(9) if n not in best]
            token = before[row].argmax()
            for fall, kept in zip(falls["one"], (rest, best), strict=True):
                left = model(input_ids=rows[row : row + 1, [*kept, 9]]).logits[0, -1].log_softmax(-1)
                assert fall[row].item() == pytest.approx((before[row, token] - left[token]).item(), abs=1e-4)


def test_the_comparison_of_measures_has_a_random_control_and_an_honest_share():
    tested = contributions.investigate(Study(families.tiny_model("llama"), ids(4)))
    assert [each.measure for each in tested.faithfulness][-1] == CONTROL
    assert tested.removed == 3
    with pytest.raises(SuperweightsError, match="takes 0 of 15"):
        contributions.investigate(Study(families.tiny_model("llama"), ids(4)), share=0.01)


@pytest.mark.real
def test_zero_destroys_the_embedded_model_and_the_mean_does_not():
    model, scored, others = study().model, prose()[:3], prose()[16:24]
    here = [SuperActivation(11, 507), SuperActivation(11, 247)]
    means = record_activations(model, here, others).mean()
    bench = Trials(model, scored)
    gone = bench.outcome("zero", tapped(model, zeroed(here)))
    mean = bench.outcome("mean", tapped(model, assigned(here, means)))
    control = bench.outcome("others", tapped(model, zeroed([SuperActivation(11, 3), SuperActivation(11, 4)])))
    assert gone.perplexity.value > 1000 * mean.perplexity.value
    assert abs(mean.loss.value) < 0.05
    assert abs(control.loss.value) < 0.02


@pytest.mark.real
def test_without_its_super_weights_the_embedded_models_sink_goes_where_they_wrote_it():
    model = study().model
    weights = [
        Address(f"model.layers.{layer}.mlp.down_proj.weight", (507, neuron))
        for layer, neuron in ((1, 83), (2, 90), (11, 1229))
    ]
    found = []
    for gone in ((), weights, random_weights(model, weights, 0)):
        with edited(model, zero(gone), verify=False):
            found += ask(model, prose()[:6], SinkReduction())
    before, without, control = (sum(each.sink_rate) / 30 for each in found)
    assert without < before - 0.15
    assert control == pytest.approx(before, abs=0.01)
    assert sum(found[1].drain) > 1.7 * sum(found[0].drain), "token 0 has a value again"
