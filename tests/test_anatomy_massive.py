"""Massive activations: planted steps and writers found exactly, criteria at their edges, the embedded model."""

from __future__ import annotations

import families
import pytest
import torch
from laid_open import answers

from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.interpretability import MassiveReduction, ask
from superweights.interpretability.answer import to_json
from superweights.interpretability.massive.answer import Massive
from superweights.interpretability.massive.events import Written, events_of

pytestmark = pytest.mark.tiny

CHANNEL = 7


def ids(rows: int = 4, tokens: int = 16) -> torch.Tensor:
    return torch.randint(3, families.VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(0))


def written(channel: int = 3, attention: float = 1.0, mlp: float = 500.0) -> Written:
    one, two = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    one[channel], two[channel] = attention, mlp
    return Written(
        one, two, channel, torch.tensor([1.0, 5.0, 0.5]).double(), torch.tensor([2.0, 90.0, 3.0]).double()
    )


def test_a_step_up_a_plateau_and_a_step_down_are_the_events_and_nothing_else_is():
    peaks = [2.0, 2.1, 2.0, 1000.0, 1010.0, 990.0, 300.0, 3.0]
    events = events_of(1.0, peaks, [1.0] * 8, [written()] * 8)
    assert [(e.layer, e.kind) for e in events] == [(3, "born"), (6, "erased"), (7, "erased")]
    assert events[0].factor == pytest.approx(500)
    assert (events[0].channel, events[0].writer, events[0].neuron, events[0].weight) == (3, "MLP", 1, 5.0)
    assert events[0].share == pytest.approx(450 / 453.5)


def test_attention_can_be_the_writer():
    (event,) = events_of(1.0, [500.0], [1.0], [written(attention=-900.0)])
    assert event.writer == "attention"
    assert event.neuron is None


@pytest.mark.parametrize(("peak", "median"), [(99.9, 0.1), (1000.0, 34.0)])
def test_what_is_not_massive_is_no_event(peak, median):
    assert events_of(1.0, [peak], [median], [None]) == ()
    assert len(events_of(1.0, [peak * 1.01], [median * 0.9], [None])) == 1


def planted(layer: int = 1) -> tuple[torch.nn.Module, int]:
    """A tiny Llama in which one weight writes 500 times the rest to the first token's channel; and its neuron."""
    model = families.tiny_model("llama")
    down = model.model.layers[layer].mlp.down_proj
    seen = []
    with torch.no_grad(), down.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        model(input_ids=ids())
        neuron = int(seen[0][:, 0].abs().mean(0).argmax())
        down.weight[CHANNEL, neuron] = 5000.0 / seen[0][:, 0, neuron].abs().mean()
    return model, neuron


def test_the_weight_that_was_planted_is_named():
    model, neuron = planted()
    (found,) = ask(model, ids(), MassiveReduction())
    (event,) = found.events
    assert found.born == (1,)
    assert found.emergence == 1
    assert (event.channel, event.writer, event.neuron) == (CHANNEL, "MLP", neuron)
    assert event.weight == pytest.approx(model.model.layers[1].mlp.down_proj.weight[CHANNEL, neuron].item())
    assert found.layers[2].channels[0].channel == CHANNEL
    assert "born" in found.panels()[0].body


def test_numbers_are_those_of_transformers_hidden_states():
    model, _ = planted()
    (found,) = ask(model, ids(), MassiveReduction(), batch_size=3)
    with torch.no_grad():
        states = model(input_ids=ids(), output_hidden_states=True).hidden_states
    for layer in (0, 1):
        state, h = found.layers[layer], states[layer + 1].abs()
        assert state.here == pytest.approx(h[:, 0].amax(-1).mean().item(), rel=1e-5)
        assert state.peak == pytest.approx(h.flatten(1).amax(-1).mean().item(), rel=1e-5)
        assert state.median == pytest.approx(h.flatten(1).median(1).values.mean().item(), rel=1e-5)
        unit = torch.nn.functional.normalize(states[layer + 1][:, 0], dim=-1)
        pairs = (unit @ unit.T)[~torch.eye(4, dtype=torch.bool)]
        assert state.across == pytest.approx(pairs.mean().item(), abs=1e-5)
        spread = states[layer + 1][:, 0, state.channels[0].channel]
        assert state.channels[0].mean == pytest.approx(spread.mean().item(), rel=1e-5)
        assert state.channels[0].deviation == pytest.approx(spread.std().item(), rel=1e-4)


def test_a_calm_model_has_no_event_and_says_so():
    (found,) = ask(families.tiny_model("llama"), ids(), MassiveReduction())
    assert found.events == ()
    assert found.emergence is None
    assert "no massive activation" in found.sheets()[1].note


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "gemma2", "mixtral", "bert", "mamba"])
def test_families_that_hide_their_writes_or_neurons_are_answered_without(kind):
    (found,) = ask(families.tiny_model(kind), ids(), MassiveReduction())
    assert len(found.layers) >= 2


def test_another_position_can_be_followed_and_short_windows_are_refused():
    model, _ = planted()
    (found,) = ask(model, ids(), MassiveReduction(position=3))
    assert found.layers[0].share_here < 1
    with pytest.raises(SuperweightsError, match="nothing beside position 15"):
        ask(model, ids(), MassiveReduction(position=15))
    with pytest.raises(SuperweightsError, match="count from 0"):
        MassiveReduction(position=-1)


HYBRIDS = (
    "bailing_hybrid", "bamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2_moe", "minimax", "nemotron_h",
    "olmo_hybrid", "qwen3_next", "zamba", "zamba2",
)  # fmt: skip


def attending(model) -> list[int]:
    """The layers that keep a key for each token in transformers' own cache."""
    with torch.no_grad():
        cache = model(input_ids=ids(), use_cache=True).past_key_values
    keys = [getattr(layer, "keys", None) for layer in cache.layers]
    return [n for n, held in enumerate(keys) if held is not None and held.shape[-2] == ids().shape[1]]


@pytest.mark.parametrize("kind", HYBRIDS)
def test_the_kinds_of_a_hybrids_layers_are_its_configs_and_full_attention_is_where_it_keeps_keys(kind):
    model = families.tiny_model(kind)
    (found,) = ask(model, ids(), MassiveReduction())
    assert [state.kind for state in found.layers] == list(model.config.layer_types)
    assert list(found.attending) == attending(model)
    assert [each.layer for each in found.before] == [layer for layer in found.attending if layer > 0]
    assert sum(len(each.layers) for each in found.by_kind) == len(found.layers)
    assert [sheet.title for sheet in found.sheets()[2:]] == [
        "By kind of layer",
        "Before each layer with full attention",
    ]


def test_the_spike_before_a_full_attention_is_where_it_was_planted():
    """Planted in a Mamba layer's MLP; compared with transformers' own hidden states."""
    model = families.tiny_model("bamba")
    assert list(model.config.layer_types) == ["linear_attention", "linear_attention", "full_attention"]
    down = model.model.layers[0].feed_forward.down_proj
    seen = []
    with torch.no_grad(), down.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        model(input_ids=ids())
        neuron = int(seen[0][:, 0].abs().mean(0).argmax())
        down.weight[CHANNEL, neuron] = 5000.0 / seen[0][:, 0, neuron].abs().mean()
        states = model(input_ids=ids(), output_hidden_states=True).hidden_states
    (found,) = ask(model, ids(), MassiveReduction())
    (read,) = found.before
    h = states[2].abs()
    assert (read.layer, read.since) == (2, ("linear_attention", "linear_attention"))
    assert read.channel == CHANNEL
    assert read.peak == pytest.approx(h.flatten(1).amax(-1).mean().item(), rel=1e-5)
    assert read.here == pytest.approx(h[:, 0].amax(-1).mean().item(), rel=1e-5)
    assert read.position == int(h.amax(-1).argmax(1).mode().values)
    linear, full = found.by_kind
    assert (linear.kind, linear.layers, linear.born) == ("linear_attention", (0, 1), (0,))
    assert (full.kind, full.layers, full.born) == ("full_attention", (2,), ())
    assert full.factor == pytest.approx(found.layers[2].here / found.layers[1].here)


@pytest.mark.parametrize(("kind", "word"), [("llama", "attention"), ("rwkv", "no attention")])
def test_layers_that_no_config_names_are_told_by_whether_they_attend(kind, word):
    (found,) = ask(families.tiny_model(kind), ids(), MassiveReduction())
    assert [each.kind for each in found.by_kind] == [word]
    assert len(found.before) == (2 if word == "attention" else 0)
    assert len(found.sheets()) == 2


def test_an_answer_of_before_there_were_kinds_is_read():
    (found,) = ask(families.tiny_model("llama"), ids(), MassiveReduction())
    old = to_json(found)
    del old["attending"]
    for state in old["layers"]:
        del state["kind"]
    read = shaped(Massive, old, "an answer", "-", "lossy")
    assert read.by_kind == read.before == ()


@pytest.mark.real
def test_the_embedded_model_has_its_known_writers_and_erasers():
    found = answers()["massive"]
    assert found.born == (1, 2, 11)
    assert found.erased == (9, 10, 28, 29)
    assert found.emergence == 11
    assert all(event.writer == "MLP" and event.channel == 507 for event in found.events)
    # Layer 29 has no single writer: neuron 999 has the largest activation there, 1165 the largest product.
    assert [event.neuron for event in found.events] == [83, 90, 200, 222, 1229, 678, 1165]
    born = found.events[4]
    assert born.weight == pytest.approx(5.876, abs=1e-3)
    assert born.factor == pytest.approx(545, rel=0.1)
    assert abs(born.attention) < 10
    assert born.mlp == pytest.approx(23060, rel=0.05)


@pytest.mark.real
def test_the_embedded_models_massive_activation_is_one_constant_direction():
    found = answers()["massive"]
    for state in found.layers[11:28]:
        assert state.share_here == 1
        assert state.across > 0.999
        assert [c.channel for c in state.channels[:2]] == [507, 247]
    assert all(state.along > 0.999 for state in found.layers[12:27])
    assert found.layers[11].along == pytest.approx(0.27, abs=0.03)
    assert found.layers[11].norm_ratio == pytest.approx(166.6, rel=0.1)
    assert found.layers[11].channels[0].variation == pytest.approx(0.055, abs=0.01)
    assert [c.channel for c in found.layers[11].channels] == [507, 247, 14, 100]
    assert all(state.strict == 0 for state in found.layers[:11]), "the first plateau fails Sun's criterion"
    assert all(state.strict == 1 for state in found.layers[11:28])
    assert 2 < found.headroom < 3
