"""Linearity: exact maps, pure noise, planted tokens; too few tokens are refused; the embedded model's artefact."""

from __future__ import annotations

import families
import pytest
import torch
from laid_open import study

from superweights.errors import SuperweightsError
from superweights.interpretability import Study
from superweights.interpretability.linearity import NormalEquations, investigate, massive_tokens

pytestmark = pytest.mark.unit


def drawn(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(x: torch.Tensor, y: torch.Tensor):
    sums = NormalEquations(x.shape[1])
    for part_x, part_y in zip(x.split(700), y.split(700), strict=True):
        sums.add(part_x, part_y)
    return sums.fit()


def test_a_linear_map_is_found_exactly_also_beside_a_shift():
    x, matrix = drawn(4000, 64) + 3, drawn(64, 64, 1)
    fit = fitted(x, x @ matrix + 5)
    assert fit.linearity == pytest.approx(1, abs=1e-9)
    assert torch.allclose(fit.matrix, matrix, atol=1e-9)
    assert fit.errors(x, x @ matrix + 5).max() < 1e-6


def test_the_fit_is_that_of_torch_and_the_errors_add_up_to_the_score():
    x, y = drawn(500, 16), drawn(500, 16, 1)
    y = y + x @ drawn(16, 16, 2)
    fit = fitted(x, y)
    centred = x - x.mean(0), y - y.mean(0)
    expected = torch.linalg.lstsq(*centred).solution
    assert torch.allclose(fit.matrix, expected, atol=1e-9)
    assert fit.errors(x, y).square().mean().item() == pytest.approx(1 - fit.linearity, rel=1e-9)
    update = torch.linalg.lstsq(centred[0], centred[1] - centred[0]).solution
    left = (centred[0] @ update - (centred[1] - centred[0])).square().sum()
    expected_update = 1 - (left / (centred[1] - centred[0]).square().sum()).item()
    assert fit.linearity_of_update == pytest.approx(expected_update, rel=1e-9)


@pytest.mark.parametrize("n", [128, 640, 6400])
def test_noise_looks_linear_by_as_much_as_there_are_channels_for_each_token(n):
    fit = fitted(drawn(n, 64), drawn(n, 64, 1))
    assert fit.linearity == pytest.approx(64 / n, rel=0.1)
    fresh = fit.errors(drawn(2000, 64, 2), drawn(2000, 64, 3)).square().mean().item()
    assert 1 - fresh < 0.01, "on tokens it has not seen it explains nothing"


def test_a_planted_nonlinear_token_is_the_farthest():
    x, matrix = drawn(4000, 32), drawn(32, 32, 1)
    y = x @ matrix
    y[1234] += 50
    assert fitted(x, y).errors(x, y).argmax() == 1234


def test_channels_that_are_always_the_same_do_not_break_the_fit():
    x = drawn(500, 16)
    x[:, 3], x[:, 5] = 2.0, x[:, 4]
    assert fitted(x, x.flip(1)).linearity == pytest.approx(1, abs=1e-9)


def test_first_tokens_and_outliers_are_massive():
    hidden = torch.ones(2, 10, 4)
    hidden[1, 7] = 100
    assert massive_tokens(hidden).nonzero().tolist() == [[0, 0], [1, 0], [1, 7]]


@pytest.mark.tiny
def test_too_few_tokens_are_refused_with_the_number_that_is_enough():
    model, d = families.tiny_model("llama"), families.HIDDEN
    tokens = torch.randint(3, families.VOCABULARY, (24, 17), generator=torch.Generator().manual_seed(0))
    with pytest.raises(SuperweightsError, match=f"needs {4 * d} tokens") as refusal:
        investigate(Study(model, tokens[:16]))
    enough = int(refusal.value.hint.split()[1])
    assert enough <= 24
    found = investigate(Study(model, tokens[:enough], batch_size=5))
    assert found.fitted >= 4 * d * 0.9
    assert all(each.linearity <= 1 for each in found.layers)
    assert found.farthest[0].nonlinearity >= found.farthest[-1].nonlinearity


@pytest.mark.tiny
def test_the_states_are_those_of_transformers_and_layers_may_come_in_groups(monkeypatch):
    model = families.tiny_model("llama")
    tokens = torch.randint(3, families.VOCABULARY, (32, 17), generator=torch.Generator().manual_seed(0))
    whole = investigate(Study(model, tokens))
    monkeypatch.setattr("superweights.interpretability.linearity._BUDGET", 1)
    assert investigate(Study(model, tokens)).layers == whole.layers
    train = tokens[torch.arange(32) % 4 != 3]
    with torch.no_grad():
        states = model(input_ids=train, output_hidden_states=True).hidden_states
    published = fitted(states[0].flatten(0, 1).double(), states[1].flatten(0, 1).double())
    assert whole.layers[0].published == pytest.approx(published.linearity, rel=1e-6)


@pytest.mark.real
def test_deep_blocks_of_the_embedded_model_look_linear_only_with_their_first_tokens():
    shallow, *deep = investigate(study(52), layers=(5, 13, 21)).layers
    assert shallow.published < 0.997
    assert all(each.published > 0.999 for each in deep)
    assert all(each.massive_share > 0.9 for each in deep)
    assert all(0.8 < each.linearity < 0.97 for each in deep)
    assert all(each.update < 0.6 < each.published_update for each in deep)
