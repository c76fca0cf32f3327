"""Sinks: closed forms of the rates, transformers' own maps, what is no decoder; the embedded model."""

from __future__ import annotations

import families
import pytest
import torch
from laid_open import answers

from superweights.errors import SuperweightsError
from superweights.interpretability import SinkReduction, ask

pytestmark = pytest.mark.tiny

TOKENS = 64


def ids(rows: int = 4, tokens: int = 16) -> torch.Tensor:
    return torch.randint(3, families.VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(0))


def answer_for(weights: torch.Tensor, eps: float = 0.3):
    reduction = SinkReduction(eps)
    reduction.begin(torch.zeros(weights.shape[0], weights.shape[2], dtype=torch.long))
    reduction._on_weights(0)(weights)
    return reduction.answer()


def all_on(key: int) -> torch.Tensor:
    weights = torch.zeros(2, 3, TOKENS, TOKENS)
    for query in range(TOKENS):
        weights[:, :, query, min(key, query)] = 1
    return weights


def test_all_weight_on_one_key_is_a_sink_there_and_nowhere_else():
    first, second = answer_for(all_on(0)), answer_for(all_on(1))
    assert (first.sink_rate, first.argmax_share, first.mass) == ((1.0,), (1.0,), (1.0,))
    assert first.other_rate == 0
    assert (second.sink_rate, second.argmax_share, second.mass) == ((0.0,), (0.0,), (0.0,))
    assert (second.other_rate, second.other_position) == (1.0, 1)


def test_uniform_attention_has_the_harmonic_mean_weight_on_its_first_token():
    uniform = torch.tril(torch.ones(TOKENS, TOKENS)) / torch.arange(1, TOKENS + 1)[:, None]
    weights = uniform.expand(1, 2, -1, -1)
    harmonic = sum(1 / n for n in range(1, TOKENS + 1)) / TOKENS
    assert harmonic == pytest.approx(0.0741, abs=1e-4)
    assert answer_for(weights).sink_rate == (0.0,)
    assert answer_for(weights, harmonic - 1e-4).sink_rate == (1.0,)
    assert answer_for(weights, harmonic + 1e-4).sink_rate == (0.0,)
    assert answer_for(weights).mass[0] == pytest.approx((harmonic * TOKENS - 1) / (TOKENS - 1), rel=1e-4)


def test_a_learned_sink_shows_as_weight_on_no_token():
    assert answer_for(all_on(0) * 0.75).spare == (0.25,)
    (found,) = ask(families.tiny_model("gpt_oss"), ids(), SinkReduction())
    assert all(0 < spare < 1 for spare in found.spare)
    (found,) = ask(families.tiny_model("llama"), ids(), SinkReduction())
    assert found.spare == pytest.approx([0] * 3, abs=1e-5)


def test_rates_are_those_of_the_published_formula_on_transformers_maps():
    model, eps = families.tiny_model("llama"), 0.15
    (found,) = ask(model, ids(), SinkReduction(eps), batch_size=3)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = torch.stack(model(input_ids=ids(), output_attentions=True).attentions, 1)  # [N, L, H, T, T]
    alpha = (maps / torch.arange(16, 0, -1)).sum(-2)
    assert found.sink_rate == pytest.approx((alpha[..., 0] > eps).float().mean((0, 2)).tolist())
    assert found.argmax_share == pytest.approx(
        (maps[..., 1:, :].argmax(-1) == 0).float().mean((0, 2, 3)).tolist()
    )
    assert found.mass == pytest.approx(maps[..., 1:, 0].mean((0, 2, 3)).tolist(), rel=1e-4)


def test_key_pull_and_value_drain_follow_their_definitions():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 12, 8, generator=generator) for heads in (4, 2, 2))
    reduction = SinkReduction()
    reduction._on_q(0)(q)
    reduction._on_k(0)(k)
    reduction._on_v(0)(v)
    cosine = torch.nn.functional.cosine_similarity(
        q[:, :, :, None], k.repeat_interleave(2, 1)[:, :, None], dim=-1
    )
    pull = [cosine[:, :, t, 0] - cosine[:, :, t, 1 : t + 1].mean(-1) for t in range(1, 12)]
    assert reduction._kept["pull"].means()[0] == pytest.approx(torch.stack(pull).mean().item(), rel=1e-4)
    drain = v[:, :, 0].norm(dim=-1) / v[:, :, 1:].norm(dim=-1).mean(-1)
    assert reduction._kept["drain"].means()[0] == pytest.approx(drain.mean().item(), rel=1e-5)


def test_a_silenced_head_is_the_quietest_and_dormant():
    model = families.tiny_model("gpt2")
    attention = model.transformer.h[1].attn
    with torch.no_grad():  # the values of head 2
        width = attention.split_size
        size = width // 4
        attention.c_attn.weight[:, 2 * width + 2 * size : 2 * width + 3 * size] = 0
        attention.c_attn.bias[2 * width + 2 * size : 2 * width + 3 * size] = 0
    (found,) = ask(model, ids(), SinkReduction())
    quietest = found.quietest[0]
    assert (quietest.layer, quietest.head, quietest.value) == (1, 2, 0)
    assert [(head.layer, head.head) for head in found.dormant] == [(1, 2)]


def test_attention_that_looks_ahead_is_refused():
    with pytest.raises(SuperweightsError, match="no causal decoder"):
        answer_for(torch.full((1, 2, TOKENS, TOKENS), 1 / TOKENS))


def test_short_windows_and_senseless_thresholds_are_refused():
    with pytest.raises(SuperweightsError, match="too short for a sink"):
        ask(families.tiny_model("llama"), ids(tokens=4), SinkReduction())
    with pytest.raises(SuperweightsError, match="eps is 1"):
        SinkReduction(1)


@pytest.mark.parametrize("kind", ["falcon", "bloom", "jamba"])
def test_attention_that_bypasses_the_interface_is_answered_from_its_softmax(kind):
    (found,) = ask(families.tiny_model(kind), ids(), SinkReduction())
    assert len(found.sink_rate) == len(found.layers) >= 1


@pytest.mark.real
def test_the_embedded_model_sinks_where_its_massive_activation_is():
    found = answers()["sinks"]
    known = (0, 0, 12, 82, 83, 78, 85, 91, 76, 71, 1, 0, 85, 95, 100, 89, 65, 99, 93, 78, 89, 91, 98, 100, 100, 100,
             100, 90, 88, 77)  # fmt: skip
    apart = [abs(100 * rate - value) for rate, value in zip(found.sink_rate, known, strict=True)]
    assert max(apart) < 17, "on other text of the same kind"
    assert sum(apart) / len(apart) < 5
    rate = sum(found.sink_rate) / 30
    assert rate == pytest.approx(0.739, abs=0.05)
    assert found.other_rate < 0.06
    assert sum(found.argmax_share) / 30 == pytest.approx(0.611, abs=0.05)
    assert sum(found.mass) / 30 == pytest.approx(0.462, abs=0.05)
    assert found.sink_rate[10] < 0.05
    assert found.sink_rate[11] < 0.05
    assert all(0.1 < drain < 0.4 for drain in (*found.drain[3:10], *found.drain[12:29]))
    assert all(drain > 0.8 for drain in (*found.drain[:2], *found.drain[10:12]))
    assert found.dormant == (), "sinks, but no dormant head"
