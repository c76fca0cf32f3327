"""Kurtosis: closed forms of known distributions, merging, ceilings; the embedded model's known values."""

from __future__ import annotations

import pytest
import torch
from laid_open import answers

from superweights.interpretability.moments import Moments, ceiling

pytestmark = pytest.mark.unit

DRAWS = 100_000


def drawn(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(DRAWS, generator=generator, dtype=torch.float64)
    return {
        "gaussian": lambda: torch.randn(DRAWS, generator=generator, dtype=torch.float64),
        "uniform": lambda: uniform,
        "signs": lambda: (uniform > 0.5).double() * 2 - 1,
        "laplace": lambda: -(uniform - 0.5).sign() * (1 - 2 * (uniform - 0.5).abs()).log(),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [("gaussian", 3, 0.1), ("uniform", 1.8, 0.02), ("signs", 1, 1e-3), ("laplace", 6, 0.3)],
)
def test_known_distributions_have_their_kurtosis(kind, value, error):
    assert Moments.of(drawn(kind)).kurtosis().item() == pytest.approx(value, abs=error)


@pytest.mark.parametrize("width", [2, 16, 576])
def test_one_number_unlike_all_others_reaches_the_ceiling(width):
    one_hot = torch.zeros(width, dtype=torch.float64)
    one_hot[width // 2] = 7.0
    assert Moments.of(one_hot).kurtosis().item() == pytest.approx(ceiling(width), rel=1e-12)
    assert ceiling(576) == pytest.approx(574.0017, abs=1e-4)


def test_pieces_merge_to_the_moments_of_the_whole_also_far_from_zero():
    values = drawn("laplace")[:5000].reshape(1000, 5) + 1e5
    whole = Moments.of(values, 0)
    merged = (
        Moments.of(values[:7], 0).merged(Moments.of(values[7:400], 0)).merged(Moments.of(values[400:], 0))
    )
    centred = values - values.mean(0)
    expected = centred.pow(4).mean(0) / centred.pow(2).mean(0).square()
    assert torch.allclose(merged.kurtosis(), expected, rtol=1e-9)
    assert torch.allclose(whole.kurtosis(), expected, rtol=1e-9)
    assert torch.allclose(merged.rms(), values.square().mean(0).sqrt())


def test_constants_have_no_kurtosis_and_large_numbers_do_not_overflow():
    assert Moments.of(torch.full((8,), 2.0)).kurtosis().isnan()
    assert Moments.of(torch.tensor([60000.0, *[0.0] * 15]).half()).kurtosis().item() == pytest.approx(
        ceiling(16)
    )


@pytest.mark.real
def test_the_embedded_model_has_its_known_tails():
    tails = answers()["kurtosis"]
    assert tails.token_ceiling == pytest.approx(574.0, abs=0.01)
    assert all(value == pytest.approx(558, abs=3) for value in tails.first[11:24])
    assert all(475 <= value <= 505 for value in tails.first[2:9])
    assert tails.first[10] < 20, "the massive activation is erased after block 10"
    assert tails.first[29] == pytest.approx(98, rel=0.5)
    assert all(value < 260 for value in tails.others)
    assert tails.features[0].channel == 507
