"""The lens: its last layer is the model, its first ones are head and norm by hand; known losses by depth."""

from __future__ import annotations

import families
import pytest
import torch
from laid_open import study
from torch.nn import functional

from superweights.errors import SuperweightsError
from superweights.interpretability import Body, Study, ask
from superweights.interpretability.lens import Lenses, check_head, investigate, own_head
from superweights.taps import Site, tapping

pytestmark = pytest.mark.tiny


def tokens(rows: int = 5, length: int = 12) -> torch.Tensor:
    return torch.randint(3, families.VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "opt", "gpt_neox", "granite", "cohere"])
def test_the_head_alone_makes_the_models_own_logits(kind):
    model = families.tiny_model(kind)
    body, seen = Body.of(model), {}
    with torch.no_grad(), tapping(model, {Site("final_norm_in"): lambda h: seen.update(h=h.clone())}):
        logits = model(input_ids=tokens(), use_cache=False).logits
        assert torch.allclose(own_head(body)(seen["h"][2], True), logits[2], atol=1e-4)
        again = model(input_ids=tokens(), use_cache=False).logits
    assert torch.equal(again, logits), "the model is as it was"


def test_every_layer_is_head_and_norm_of_transformers_states():
    model, ids = families.tiny_model("llama"), tokens()
    (found,) = ask(model, ids, Lenses(5 * 11, tokens=1000), batch_size=2)
    assert found.tokens == 55
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
        for number, each in enumerate(found.layers[:-1]):  # transformers' last state is after the norm
            for score, state in (
                (each.loss, model.model.norm(states[number])),
                (each.loss_without_norm, states[number]),
            ):
                logits = model.lm_head(state[:, :-1])
                expected = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
                assert score.value == pytest.approx(expected.item(), rel=1e-5)
        own = functional.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert found.layers[-1].loss.value == found.final.value == pytest.approx(own.item(), rel=1e-5)
    assert found.layers[-1].as_the_model == 1
    assert [each.layer for each in found.layers] == [None, 0, 1, 2]


def test_a_sample_of_tokens_does_not_depend_on_the_batches():
    model, ids = families.tiny_model("llama"), tokens(9)
    one, other = (ask(model, ids, Lenses(9 * 11, tokens=20), batch_size=size)[0] for size in (9, 4))
    assert one.tokens == other.tokens == 20
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.loss.value == pytest.approx(b.loss.value, rel=1e-4)


def test_what_cannot_be_read_is_refused(monkeypatch):
    model = families.tiny_model("llama")
    with pytest.raises(SuperweightsError, match="no next token"):
        investigate(Study(model, torch.ones(3, 1, dtype=torch.long)))
    monkeypatch.setattr(
        "superweights.interpretability.lens.own_head", lambda body: lambda h, norm: h @ torch.ones(64, 256)
    )
    with pytest.raises(SuperweightsError, match="cannot be asked alone"):
        check_head(Body.of(model), tokens())


@pytest.mark.real
def test_the_embedded_model_decides_in_its_last_blocks():
    one = study(2)
    (found,) = one.ask(Lenses(2 * 63, layers=(0, 11, 22, 26, 29), tokens=64))
    embed, first, spiked, later, late, last = found.layers
    assert embed.loss.value == pytest.approx(111, rel=0.1)
    assert first.loss.value == pytest.approx(16.8, rel=0.2)
    assert later.loss.value > late.loss.value > last.loss.value
    assert last.loss.value == pytest.approx(found.final.value, rel=1e-4)
    assert spiked.loss_without_norm.value > 3 * spiked.loss.value, "without the norm the spike drowns it"
