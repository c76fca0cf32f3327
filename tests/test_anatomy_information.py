"""Information: ranks and entropies in closed form, mixing against new directions, the embedded model's values."""

from __future__ import annotations

import math

import families
import pytest
import torch
from laid_open import study

from superweights.interpretability import ask
from superweights.interpretability.information import (
    Informations,
    effective_rank,
    investigate,
    mixing_entropy,
    noise_like,
    update_of,
)
from superweights.taps import Site, tapping

pytestmark = pytest.mark.unit


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(n: int, d: int) -> torch.Tensor:
    return torch.linalg.qr(drawn(d, n)).Q.T


def test_equal_directions_have_their_number_as_effective_rank():
    assert effective_rank(torch.linalg.svdvals(orthonormal(7, 20))) == pytest.approx(7)
    assert effective_rank(torch.tensor([3.0, 0.0])) == pytest.approx(1)


def test_mixing_tokens_opens_no_new_features_and_mixing_features_no_new_tokens():
    stream = drawn(6, 20)
    mixed = update_of(stream, drawn(6, 6, seed=1) @ stream)
    assert mixed.outside_rows == pytest.approx(0, abs=1e-9)
    tall = drawn(20, 6)
    turned = update_of(tall, tall @ drawn(6, 6, seed=1))
    assert turned.outside_columns == pytest.approx(0, abs=1e-9)
    assert update_of(stream, stream).rid == pytest.approx(0, abs=1e-9)


def test_one_new_direction_counts_with_its_norm():
    basis = orthonormal(5, 16)
    stream, new = basis[:4], basis[4]
    for size in (0.5, 2.0):
        after = stream.clone()
        after[2] += size * new
        found = update_of(stream, after)
        assert found.outside_rows == pytest.approx(size / math.sqrt(4 + size**2))
        assert found.outside_columns == pytest.approx(0, abs=1e-9)
        assert found.innovation == pytest.approx(found.outside_rows / 2)


def test_equal_tokens_mix_evenly_and_orthogonal_ones_look_twice_at_themselves():
    assert mixing_entropy(torch.ones(9, 4)) == pytest.approx(math.log(9))
    n = 5
    shares = [1 / ((n - 1) / 2 + 1), *[0.5 / ((n - 1) / 2 + 1)] * (n - 1)]
    expected = -sum(share * math.log(share) for share in shares)
    assert mixing_entropy(orthonormal(n, 12)) == pytest.approx(expected)


def test_noise_has_the_norm_of_each_token():
    update = drawn(6, 20)
    noise = noise_like(update, torch.Generator().manual_seed(1))
    assert torch.allclose(noise.norm(dim=1), update.norm(dim=1))
    assert (noise * update).sum().abs() < 0.5 * update.square().sum()


@pytest.mark.tiny
def test_the_sublayers_are_those_of_the_model():
    model = families.tiny_model("llama")
    ids = torch.randint(3, families.VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))
    (found,) = ask(model, ids, Informations(sequences=1))
    assert found.sequences == 1
    seen = {}
    with tapping(model, {Site(kind, 1): lambda h, kind=kind: seen.update({kind: h[0].clone()})
                         for kind in ("block_in", "mid", "block_out")}), torch.no_grad():  # fmt: skip
        model(input_ids=ids)
    attention, mlp = (each for each in found.parts if each.layer == 1)
    assert attention.rid == pytest.approx(update_of(seen["block_in"], seen["mid"]).rid, rel=1e-5)
    assert mlp.mixing_nats == pytest.approx(update_of(seen["mid"], seen["block_out"]).mixing_nats, abs=1e-7)


@pytest.mark.real
def test_the_mlp_of_the_embedded_model_innovates_more_than_attention():
    found = investigate(study(4))
    assert found.mean("attention", "innovation") == pytest.approx(0.028, abs=0.004)
    assert found.mean("mlp", "innovation") == pytest.approx(0.060, abs=0.008)
    assert found.mean("attention", "rank_change") == pytest.approx(0.006, abs=0.003)
    assert found.mean("mlp", "rank_change") == pytest.approx(0.049, abs=0.01)
    assert abs(found.mean("attention", "mixing_nats")) < 0.002, "the published gap does not reproduce"
    for part in ("attention", "mlp"):  # random writes of the same norms "innovate" as much
        noise = found.mean(part, "noise_innovation")
        assert noise > 0.9 * found.mean(part, "innovation")
