"""Dimensions: cubes of known dimension, duplicates, rank one, sampling; the embedded model's known shares."""

from __future__ import annotations

import families
import pytest
import torch
from laid_open import answers

from superweights.errors import SuperweightsError
from superweights.interpretability import Study, ask
from superweights.interpretability.dimension import (
    FACCO,
    Dimensions,
    intrinsic_dimension,
    reduction,
    top_eigen_share,
    two_nearest,
)

pytestmark = pytest.mark.unit


def cube(k: int, n: int = 2500, width: int = 100) -> torch.Tensor:
    """Uniform points of a k-dimensional cube, turned into `width` dimensions."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(width, k, generator=generator, dtype=torch.float64)).Q
    return torch.rand(n, k, generator=generator, dtype=torch.float64) @ turn.T


@pytest.mark.parametrize(("k", "low", "high"), [(1, 0.9, 1.1), (2, 1.85, 2.15), (5, 4.3, 5.3), (10, 7.8, 10)])
def test_a_cube_has_its_dimension(k, low, high):
    assert low * 0.95 <= intrinsic_dimension(cube(k)) <= high
    assert low <= intrinsic_dimension(cube(k), FACCO) <= high, "a fit to 90 % of the points is surer"


def test_duplicates_are_left_out_and_constants_are_refused():
    points = cube(2)
    assert intrinsic_dimension(torch.cat([points, points[:200]])) == pytest.approx(
        intrinsic_dimension(points), rel=1e-3
    )
    with pytest.raises(SuperweightsError, match="tokens differ"):
        intrinsic_dimension(torch.ones(100, 5))


def test_the_two_nearest_are_those_of_all_distances():
    points = cube(3, 300)
    distances = (points[:, None] - points[None]).norm(dim=-1).fill_diagonal_(torch.inf).sort(1).values
    first, second = two_nearest(points)
    assert torch.allclose(first, distances[:, 0])
    assert torch.allclose(second, distances[:, 1])


@pytest.mark.parametrize("n", [40, 4000])
def test_the_largest_eigenvalue_has_all_of_rank_one_and_little_of_a_ball(n):
    generator = torch.Generator().manual_seed(0)
    ball = torch.randn(n, 64, generator=generator, dtype=torch.float64)
    expected = torch.linalg.eigvalsh(torch.cov(ball.T))
    assert top_eigen_share(ball) == pytest.approx((expected[-1] / expected.sum()).item(), rel=1e-9)
    assert top_eigen_share(ball[:, :1] * ball[:1]) == pytest.approx(1)


@pytest.mark.tiny
def test_every_layer_is_asked_about_the_same_tokens_whatever_the_batches():
    model = families.tiny_model("llama")
    ids = torch.randint(3, families.VOCABULARY, (12, 16), generator=torch.Generator().manual_seed(0))
    whole, parts = (ask(model, ids, Dimensions(64), batch_size=size)[0] for size in (12, 5))
    assert whole.rows == parts.rows == 64
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert one.massive == other.massive
        assert one.dimension == pytest.approx(other.dimension, rel=1e-2)
        assert one.top_eigen_share == pytest.approx(other.top_eigen_share, rel=1e-4)
    with torch.no_grad():
        state = model(input_ids=ids, output_hidden_states=True).hidden_states[1].flatten(0, 1)
    everything = ask(model, ids, Dimensions(10_000))[0].layers[0]
    assert everything.top_eigen_share_all == pytest.approx(top_eigen_share(state), rel=1e-5)


@pytest.mark.tiny
def test_too_few_tokens_are_refused():
    with pytest.raises(SuperweightsError, match="a dimension needs 32"):
        reduction(Study(families.tiny_model("llama"), torch.ones(1, 20, dtype=torch.long)))


@pytest.mark.real
def test_the_embedded_model_is_lopsided_only_with_its_first_tokens():
    layers = answers()["dimension"].layers
    assert layers[11].top_eigen_share_all == pytest.approx(0.999, abs=0.002)
    assert layers[11].top_eigen_share == pytest.approx(0.118, abs=0.03)
    assert layers[20].top_eigen_share_all == pytest.approx(0.998, abs=0.003)
    assert layers[10].top_eigen_share_all == pytest.approx(0.11, abs=0.03)
    assert layers[2].top_eigen_share == pytest.approx(0.75, abs=0.06)
    assert all(5 < each.dimension < 20 for each in layers)
