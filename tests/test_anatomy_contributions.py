"""Contribution weights: closed forms, invariants, the definition written out, the embedded model."""

from __future__ import annotations

import itertools

import families
import pytest
import torch
from laid_open import answers

from superweights.errors import SuperweightsError
from superweights.interpretability import ContributionReduction, ask
from superweights.interpretability.contributions.question import Parts, contribution_maps
from superweights.taps import Site, tapping

pytestmark = pytest.mark.tiny


def ids(rows: int = 4, tokens: int = 16) -> torch.Tensor:
    return torch.randint(3, families.VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(0))


def parts(weights: list[float], values: list[list[float]]) -> Parts:
    """One query of one head, whose output matrix is the identity."""
    a, v = torch.tensor(weights)[None, None, None], torch.tensor(values)[None, None]
    return Parts.of(a, v, (a @ v).transpose(1, 2), torch.eye(v.shape[-1]))


@pytest.mark.parametrize(
    ("weights", "values", "expected"),
    [
        ([1.0], [[3.0, 4.0]], [1.0]),
        ([0.8, 0.2], [[1.0, 2.0], [-1.0, -2.0]], [4 / 3, -1 / 3]),
        ([0.5, 0.5], [[2.0, 0.0], [0.0, 0.0]], [1.0, 0.0]),
        ([0.5, 0.25, 0.25], [[1.0, 0.0], [0.0, 3.0], [0.0, -3.0]], [1.0, 0.0, 0.0]),
    ],
)
def test_closed_forms(weights, values, expected):
    for found in contribution_maps(parts(weights, values)):
        assert found.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "phi3", "gpt_oss", "gemma2"])
def test_maps_are_the_definition_written_out_and_rows_sum_to_one(kind):
    model, layer, seen = families.tiny_model(kind), 1, {}
    sites = {name: Site(name, layer) for name in ("weights", "v", "head_out")}
    with (
        torch.no_grad(),
        tapping(model, {site: lambda t, n=n: seen.update({n: t}) for n, site in sites.items()}),
    ):
        model(input_ids=ids())
    from superweights.interpretability import Body

    matrix = Body.of(model).matrix(sites["head_out"])
    found = Parts.of(seen["weights"], seen["v"], seen["head_out"], matrix)
    head, whole = contribution_maps(found)
    a, v = seen["weights"], seen["v"].repeat_interleave(seen["weights"].shape[1] // seen["v"].shape[1], 1)
    each = a[..., None] * v[:, :, None]  # [B, H, T, S, d_h]
    out = each.sum(3)
    expected = (each * out[:, :, :, None]).sum(-1) / out.square().sum(-1)[..., None]
    assert torch.allclose(head, expected, atol=1e-5)
    written = torch.einsum("bhtsc,dhc->bhtsd", each, matrix.reshape(matrix.shape[0], a.shape[1], -1))
    total = written.sum((1, 3))
    expected = (written.sum(1) * total[:, :, None]).sum(-1) / total.square().sum(-1)[..., None]
    assert torch.allclose(whole, expected, atol=1e-4)
    assert torch.allclose(head.sum(-1), torch.ones_like(head[..., 0]), atol=1e-4)
    assert torch.allclose(whole.sum(-1), torch.ones_like(whole[..., 0]), atol=1e-4)
    assert torch.allclose(found.sizes()[1], (v @ found.matrix.transpose(1, 2)).norm(dim=-1), atol=1e-4)


def test_the_reduction_averages_the_maps_of_its_queries(monkeypatch):
    model = families.tiny_model("llama")
    monkeypatch.setattr("superweights.interpretability.chunks._NUMBERS", 4 * 4 * 16 * 3)
    reduction = ContributionReduction(first=8)
    (found,) = ask(model, ids(), reduction)
    seen = {}
    sites = {name: Site(name, 2) for name in ("weights", "v", "head_out")}
    with (
        torch.no_grad(),
        tapping(model, {site: lambda t, n=n: seen.update({n: t}) for n, site in sites.items()}),
    ):
        model(input_ids=ids())
    held = Parts.of(*(seen[n] for n in sites), model.model.layers[2].self_attn.o_proj.weight)
    head, whole = contribution_maps(held)
    shares = found.first_token
    assert shares["attention"][2] == pytest.approx(seen["weights"][:, :, 8:, 0].mean().item(), rel=1e-4)
    assert shares["contribution, head"][2] == pytest.approx(head[:, :, 8:, 0].mean().item(), rel=1e-3)
    assert shares["contribution, layer"][2] == pytest.approx(whole[:, 8:, 0].mean().item(), rel=1e-3)
    assert reduction.last_query("contribution, layer").sum(-1).tolist() == pytest.approx([1] * 4, abs=1e-4)
    assert reduction.last_query("attention").shape == (4, 16)
    assert sum(found.queries_by_mass) == 4 * 3 * 4 * 8


@pytest.mark.parametrize("kind", ["falcon", "mamba"])
def test_models_whose_values_are_hidden_are_refused_with_the_reason(kind):
    with pytest.raises(SuperweightsError, match="cannot be"):
        ask(families.tiny_model(kind), ids(), ContributionReduction())


def test_windows_without_a_late_query_are_refused():
    with pytest.raises(SuperweightsError, match="no query from position 8"):
        ask(families.tiny_model("llama"), ids(tokens=8), ContributionReduction())


@pytest.mark.real
def test_the_embedded_models_first_token_gets_attention_and_contributes_little():
    found = answers()["contributions"]
    mean = {name: sum(values) / 30 for name, values in found.first_token.items()}
    assert mean["attention"] == pytest.approx(0.42, abs=0.03)
    assert mean["contribution, head"] == pytest.approx(0.27, abs=0.03)
    assert mean["contribution, layer"] == pytest.approx(0.15, abs=0.03)
    assert found.error < 1e-5
    layer, attention = found.first_token["contribution, layer"], found.first_token["attention"]
    assert all(c <= a for c, a in zip(layer[2:], attention[2:], strict=True))
    assert layer[24] > 0.9 * attention[24], "the exception"
    assert layer[22] < 0.2 * attention[22]
    norms = found.norm_by_mass
    assert all(a > b for a, b in itertools.pairwise(norms[:9])), "heads that sink more write less"
    assert norms[8] < 0.8 < 1.1 < norms[0]
