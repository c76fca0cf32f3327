"""The numbers that prevention is judged by: closed forms, known traps, and what the rest of the house measures."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from superweights.errors import SuperweightsError
from superweights.interpretability.asking import ask
from superweights.interpretability.sinks.question import SinkReduction
from superweights.lab import measures
from superweights.lab.penalty import NAMES, penalties
from superweights.lab.profile import Profile, profile_of


@pytest.fixture(scope="module")
def gaussian():
    return torch.randn(4096, 256, generator=torch.Generator().manual_seed(0))


@pytest.mark.unit
def test_a_gaussian_of_256_channels_has_kurtosis_298_and_sizes_alike(gaussian):
    assert measures.kurtosis_channel(gaussian).mean().item() == pytest.approx(2.98, abs=0.01)
    assert measures.kurtosis_neuron(gaussian.square().mean(0)) == pytest.approx(1.00, abs=0.005)


@pytest.mark.unit
def test_one_channel_a_hundred_times_as_large_gives_190_and_243(gaussian):
    scaled = gaussian.clone()
    scaled[:, 7] *= 100
    assert measures.kurtosis_channel(scaled).mean().item() == pytest.approx(190, abs=1)
    assert measures.kurtosis_neuron(scaled.square().mean(0)) == pytest.approx(243, abs=1)


@pytest.mark.unit
def test_a_rotation_hides_an_outlier_channel_and_its_inverse_shows_it_again(gaussian):
    scaled = gaussian.clone()
    scaled[:, 7] *= 100
    rotation = measures.random_rotation(256)
    assert torch.allclose(rotation @ rotation.T, torch.eye(256), atol=1e-5)
    turned = scaled @ rotation
    assert measures.kurtosis_channel(turned).mean().item() < 4
    assert measures.kurtosis_channel(turned @ rotation.T).mean().item() == pytest.approx(190, abs=1)


@pytest.mark.unit
def test_max_median_ratio_of_known_numbers():
    assert measures.max_median_ratio(torch.tensor([[1.0, -2.0, 3.0, -40.0, 2.0]])).item() == 20


@pytest.mark.unit
def test_uniform_attention_is_its_own_reference():
    tokens = 48
    weights = torch.ones(1, 1, tokens, tokens).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    assert weights[0, 0, 1:, 0].mean().item() == pytest.approx(measures.uniform_mass(tokens))
    assert measures.uniform_mass(tokens) == pytest.approx(0.0736, abs=1e-4)


@pytest.mark.unit
def test_alpha_divides_by_the_queries_that_can_see_the_position():
    weights = torch.zeros(1, 1, 6, 6)
    weights[..., 2:, 2] = 1
    assert measures.alpha(weights, position=2).item() == 1
    assert measures.alpha(weights, position=0).item() == 0
    assert measures.alpha(weights, position=2, tokens=4).item() == 1


@pytest.mark.unit
def test_rows_of_zeros_are_no_sink():
    weights = torch.zeros(1, 2, 5, 5)
    weights[0, 0, 3, 1] = 0.5
    first, looking = measures.first_argmax(weights)
    assert (first.item(), looking.item()) == (0, 1)
    weights[0, 0, 4, 0] = 0.1
    first, looking = measures.first_argmax(weights)
    assert (first.item(), looking.item()) == (1, 2)


@pytest.mark.unit
def test_the_proxy_reads_signed_and_unnormalised_weights_alike():
    weights = torch.tensor([[[[-2.0, 6.0]]]])
    assert measures.proxy(weights).flatten().tolist() == pytest.approx([0.25, 0.75])
    assert measures.proxy(torch.zeros(1, 1, 1, 2)).sum() == 0


@pytest.mark.unit
def test_zeros_are_counted_below_the_diagonal_only():
    weights = torch.eye(4)[None, None]
    assert measures.causal_zeros(weights).item() == pytest.approx(6 / 10)


@pytest.mark.unit
def test_a_head_is_dead_where_it_gives_nothing_on_nearly_all_tokens():
    out = torch.ones(2, 50, 3, 4)
    out[:, :, 1] = 0
    out[:, :40, 2] = 1e-7
    assert measures.dead_share(measures.dead_tokens(out), 100) == pytest.approx(1 / 3)


def small_llama(**more):
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def llama():
    return small_llama()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(64, (12, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.tiny
def test_the_profile_of_a_llama_agrees_with_what_anatomy_measures(llama, ids):
    profile = profile_of(llama, ids)
    sinks = ask(llama, ids, SinkReduction())[0]
    assert profile.argmax_share == pytest.approx(sum(sinks.argmax_share) / 2)
    assert profile.mass == pytest.approx(sum(sinks.mass) / 2)
    assert profile.sink_rate == pytest.approx(sum(sinks.sink_rate) / 2)
    assert profile.value_drain == pytest.approx(sum(sinks.drain) / 2)
    assert profile.mass == pytest.approx(profile.mass_proxy, rel=1e-5)
    assert profile.row_sum == pytest.approx(1)


@pytest.mark.tiny
def test_the_profile_of_a_llama_agrees_with_its_own_hidden_states(llama, ids):
    profile = profile_of(llama, ids)
    with torch.no_grad():
        out = llama(input_ids=ids, labels=ids, output_hidden_states=True)
        blocks = []
        hook = llama.model.layers[-1].register_forward_hook(
            lambda m, a, o: blocks.append(o if torch.is_tensor(o) else o[0])
        )
        llama(input_ids=ids)
        hook.remove()
    states = torch.stack([out.hidden_states[1], blocks[0]]).double()
    assert profile.loss == pytest.approx(out.loss.item(), rel=1e-5)
    flat = states.flatten() - states.mean()
    assert profile.kurtosis_flat == pytest.approx(
        (flat**4).mean().item() / (flat**2).mean().item() ** 2, rel=1e-4
    )
    norms = states.norm(dim=-1)
    assert profile.norm_ratio == pytest.approx(
        (norms[..., 0] / norms.mean(-1)).mean(1).max().item(), rel=1e-4
    )
    squares = states.square().mean((1, 2))
    neuron = (squares.square().mean(-1) / squares.mean(-1).square()).max().item()
    assert profile.kurtosis_neuron == pytest.approx(neuron, rel=1e-4)


@pytest.mark.tiny
def test_masses_are_told_apart_by_the_token_that_the_query_has_to_predict(llama, ids):
    """With one role for all tokens of even position, the queries at odd positions are its queries."""
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, 2::2] = True
    profile = profile_of(
        llama,
        ids,
        roles=lambda batch: {"even": mask[: len(batch)]},
    )
    with torch.no_grad():
        llama.set_attn_implementation("eager")
        weights = torch.stack(llama(input_ids=ids, output_attentions=True).attentions)
        llama.set_attn_implementation("sdpa")
    expected = weights[:, :, :, 1:-1:2, 0].mean().item()
    assert profile.mass_by_role["even"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.tiny
def test_looking_leaves_the_model_its_mode_and_the_random_numbers_as_they_were(llama, ids):
    llama.train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    profile_of(llama, ids, calibration=ids[:4])
    assert llama.training
    assert torch.equal(torch.rand(2), expected)
    llama.eval()


@pytest.mark.tiny
def test_a_profile_comes_back_from_json(llama, ids):
    profile = profile_of(llama, ids, own_basis=torch.eye(32), calibration=ids[:4])
    assert Profile.from_json(profile.to_json()) == profile
    assert set(profile.penalties) == set(NAMES)
    assert profile.rotated_first["own"] == pytest.approx(profile.kurtosis_channel_first)


@pytest.mark.tiny
def test_weights_that_lie_on_the_grid_cost_nothing_to_round(ids):
    model = small_llama()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name and "lm_head" not in name:
                weight.copy_(torch.randint(0, 8, weight.shape).float() / 8 - 0.5)
                weight[:, 0], weight[:, 1] = -0.5, 0.375  # each channel spans the whole grid
    found = penalties(model, ids, ids[:4])
    assert abs(found["W3 zero point"]) < 1e-3
    assert abs(found["W4 zero point"]) > 1e-3


@pytest.mark.tiny
def test_an_outlier_channel_costs_coarse_rounding_more_than_fine(ids):
    model = small_llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[3] = 200.0
            layer.self_attn.q_proj.weight[:, 3] /= 200.0
            layer.self_attn.k_proj.weight[:, 3] /= 200.0
            layer.self_attn.v_proj.weight[:, 3] /= 200.0
    found = penalties(model, ids, ids[:4])
    assert found["W8A8 coarse"] > 3 * abs(found["W8A8 fine"])
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.tiny
def test_rows_too_short_for_a_profile_are_refused(llama):
    with pytest.raises(SuperweightsError, match="4 tokens"):
        profile_of(llama, torch.zeros(2, 3, dtype=torch.long))
