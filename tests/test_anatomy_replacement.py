"""Attention replaced: each mode against a forward written by hand, masks, heads, seeds; what it costs the
embedded model."""

from __future__ import annotations

import families
import pytest
import torch
from laid_open import embedded, prose, study

from superweights.errors import SuperweightsError
from superweights.interpretability import Study
from superweights.interpretability.attention_ablation.ablating import (
    MODES,
    attention_replaced,
    replaced_weights,
)
from superweights.interpretability.attention_ablation.question import investigate, replacements
from superweights.scoring import perplexity
from superweights.taps import Site, tapping

pytestmark = pytest.mark.unit


def attention(rows: int = 2, heads: int = 3, tokens: int = 6):
    """Causal weights and their mask."""
    allowed = torch.ones(tokens, tokens).tril().bool().expand(rows, heads, tokens, tokens)
    logits = torch.randn(allowed.shape, generator=torch.Generator().manual_seed(0))
    return logits.masked_fill(~allowed, -torch.inf).softmax(-1), allowed


def new(mode: str, weights: torch.Tensor, allowed: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return replaced_weights(weights, allowed, mode, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "no-sink-value"])
def test_every_mode_keeps_the_mask_and_each_rows_sum(mode):
    weights, allowed = attention()
    weights = weights * 0.7  # a learned sink has taken the rest
    found = new(mode, weights, allowed)
    assert (found[~allowed] == 0).all()
    assert (found >= 0).all()
    assert torch.allclose(found.sum(-1), weights.sum(-1), atol=1e-6)


def test_the_modes_are_what_they_are_called():
    weights, allowed = attention()
    tokens = weights.shape[-1]
    expected = {
        "uniform": allowed / torch.arange(1, tokens + 1)[:, None],
        "self": torch.eye(tokens).expand_as(weights),
        "sink": torch.eye(tokens)[:1].expand_as(weights),
        "shuffled": weights.flip(0),
    }
    for mode, value in expected.items():
        assert torch.allclose(new(mode, weights, allowed), value, atol=1e-6), mode
    without = new("no-sink", weights, allowed)
    assert torch.equal(without[:, :, 0], weights[:, :, 0]), "the first token has nothing else to look at"
    assert (without[:, :, 1:, 0] == 0).all()
    ratio = without[:, :, 3, 1:4] / weights[:, :, 3, 1:4]
    assert torch.allclose(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-4)


def test_dirichlet_and_gaussian_weights_have_their_distribution():
    allowed = torch.ones(1, 20_000, 1, 4).bool()
    weights = torch.full(allowed.shape, 0.25)
    drawn = new("dirichlet", weights, allowed)[0, :, 0]
    assert drawn.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.005)
    assert drawn.var(0).tolist() == pytest.approx([0.25 * 0.75 / 5] * 4, rel=0.05)  # of Dirichlet(1, 1, 1, 1)
    normal = new("gaussian", weights, allowed)[0, :, 0].log()
    assert (normal - normal.mean(-1, keepdim=True)).var().item() == pytest.approx(0.75, rel=0.05)
    assert torch.equal(new("dirichlet", weights, allowed)[0, :, 0], drawn), "the seed decides"
    assert not torch.equal(new("dirichlet", weights, allowed, 1)[0, :, 0], drawn)


def test_weights_of_another_text_need_another_text():
    weights, allowed = attention(rows=1)
    with pytest.raises(SuperweightsError, match="two texts"):
        new("shuffled", weights, allowed)


@pytest.mark.tiny
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "gpt_oss"])
def test_the_model_runs_with_the_new_weights_in_the_chosen_heads_only(kind):
    model = families.tiny_model(kind)
    ids = torch.randint(3, families.VOCABULARY, (2, 10), generator=torch.Generator().manual_seed(0))
    before, after = {}, {}
    with torch.no_grad(), tapping(model, {Site("weights", 1): lambda w: before.update(w=w.clone()),
                                          Site("v", 1): lambda v: before.update(v=v.clone())}):  # fmt: skip
        base = model(input_ids=ids, use_cache=False).logits
    with attention_replaced(model, "uniform", [1], heads=[2]), torch.no_grad():
        with tapping(model, {Site("head_out", 1): lambda h: after.update(h=h.clone())}):
            model(input_ids=ids, use_cache=False)
    v = before["v"].repeat_interleave(before["w"].shape[1] // before["v"].shape[1], 1)
    weights = before["w"].clone()
    allowed = weights[:, 2] > 0
    weights[:, 2] = allowed / allowed.sum(-1, keepdim=True) * weights[:, 2].sum(-1, keepdim=True)
    assert torch.allclose(after["h"], (weights @ v).transpose(1, 2), atol=1e-5)
    with torch.no_grad():
        again = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(again, base, atol=1e-5), "everything is put back"


@pytest.mark.tiny
def test_taking_the_first_value_away_is_what_the_sum_without_it_says():
    model = families.tiny_model("llama")
    ids = torch.randint(3, families.VOCABULARY, (2, 10), generator=torch.Generator().manual_seed(0))
    seen = {}
    with attention_replaced(model, "no-sink-value", [0]), torch.no_grad():
        with tapping(model, {Site(kind, 0): lambda t, kind=kind: seen.update({kind: t.clone()})
                             for kind in ("weights", "head_out", "v")}):  # fmt: skip
            model(input_ids=ids, use_cache=False)
    values = seen["v"].clone()
    values[:, :, 0] = 0
    values = values.repeat_interleave(seen["weights"].shape[1] // values.shape[1], 1)
    assert torch.allclose(seen["head_out"], (seen["weights"] @ values).transpose(1, 2), atol=1e-5)


@pytest.mark.tiny
def test_what_cannot_be_replaced_is_refused():
    model = families.tiny_model("llama")
    ids = torch.ones(2, 4, dtype=torch.long)
    for words, complaint in (
        (("weather", [0]), "no attention called"),
        (("uniform", []), "No layer"),
        (("uniform", [99]), "runs 3 blocks"),
    ):
        with pytest.raises(SuperweightsError, match=complaint), attention_replaced(model, *words):
            model(input_ids=ids)
    with (
        pytest.raises(SuperweightsError, match="no head 9"),
        attention_replaced(model, "uniform", [0], heads=[9]),
    ):
        model(input_ids=ids)
    with (
        pytest.raises(SuperweightsError, match="share their values"),
        attention_replaced(model, "no-sink-value", [0], heads=[1]),
    ):
        model(input_ids=ids)
    with pytest.raises(SuperweightsError, match="two windows"):
        investigate(Study(model, ids[:1]))


@pytest.mark.tiny
def test_every_mode_has_a_perplexity_in_both_scopes_beside_random_layers():
    model = families.tiny_model("llama")
    ids = torch.randint(3, families.VOCABULARY, (5, 12), generator=torch.Generator().manual_seed(0))
    found = investigate(Study(model, ids, batch_size=4))
    assert {(e.mode, e.scope) for e in found.rows} >= {(mode, "all") for mode in MODES}
    assert found.base.value == pytest.approx(perplexity(model, ids).value)
    assert {len(each.layers) for each in found.controls} == {len(found.rows[0].layers)}


@pytest.mark.real
def test_late_blocks_of_the_embedded_model_bear_random_attention_and_the_first_do_not():
    base = perplexity(embedded()[0], prose(4)).value
    few = study(4)
    scopes = [("late", range(22, 29))]
    late = {e.mode: e.perplexity.value / base for e in replacements(few, scopes, ["uniform", "no-sink"])}
    assert 1.4 < late["uniform"] < 2.6, "twice the perplexity, not parity"
    assert 1.1 < late["no-sink"] < 1.7
    (everywhere,) = replacements(few, [("1-29", range(1, 30))], ["uniform"])
    assert everywhere.perplexity.value > 50 * base
