"""The published arithmetic: operation by operation, with the figures that running the authors' code gave."""

from __future__ import annotations

import pytest
import torch

from superweights.errors import SuperweightsError
from superweights.quantization import Clip, Scheme, quantize_tensor
from superweights.quantization.clipping import limits
from superweights.quantization.scheme import INTEGERS

pytestmark = pytest.mark.unit


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_integers_follow_the_formula_to_the_bit_in_the_weights_dtype(bits, shift, dtype):
    w = gaussian(16, 64).to(dtype)
    runs = w.reshape(-1, 256)
    low, high = runs.min(1, keepdim=True).values, runs.max(1, keepdim=True).values
    s = (2**bits - (0.01 if shift else 1)) / (high - low)
    codes = ((runs - low) * s - 0.49).round() + 0.49 if shift else ((runs - low) * s).round()
    oracle = codes / s + low
    ours = quantize_tensor(w, Scheme.as_published(f"int{bits}", 256, scale_shift=shift)).dequantize()
    assert ours.dtype is dtype
    assert torch.equal(ours, oracle.reshape(w.shape))


def test_the_scale_shift_has_seventeen_levels_and_is_charged_five_bits():
    w = gaussian(64, 1024)
    shifted = quantize_tensor(w, Scheme.as_published("int4", 1024, scale_shift=True))
    assert len(shifted.codes.unique()) == 17
    assert shifted.stored_bits.codes == 5 * w.numel()
    plain = quantize_tensor(w, Scheme.as_published("int4", 1024))
    assert len(plain.codes.unique()) == 16
    assert plain.stored_bits.codes == 4 * w.numel()


@pytest.mark.parametrize(
    ("size", "clipped"), [(16_384, 0), (65_536, 0), (262_144, 2), (1_048_576, 10)], ids=str
)
def test_a_block_share_of_1e_5_clips_as_many_weights_as_published(size, clipped):
    """0, 0, 2 and 10 in blocks "128x128" to "1024x1024": why two points of figure 7 are plain rounding."""
    w = torch.arange(1, size + 1, dtype=torch.float32).roll(77).reshape(1, -1) / size
    q = quantize_tensor(w, Scheme.as_published("int8", size, Clip("block_share", 1e-5)))
    limit = float(q.dequantize().max())
    assert int((w > limit + 0.5 / size).sum()) == clipped


@pytest.mark.parametrize(("z", "sigmas"), [(9, 6.22), (11, 7.43), (12, 8.03), (20, 12.85)])
def test_z_is_a_statistic_of_absolute_weights(z, sigmas):
    """For a Gaussian, published z means this many standard deviations of W."""
    w = torch.randn(400_000, generator=torch.Generator().manual_seed(1))
    w[0], w[1] = 1e3, -1e3
    low, high = limits(w[2:].reshape(1, -1), None, Clip("z_of_absolute", z), None)
    assert float(high) == pytest.approx(sigmas, abs=0.03)
    assert float(low) == -float(high)


def test_runs_that_do_not_divide_the_tensor_become_one_block_only_as_published():
    w = gaussian(10, 30)
    published = quantize_tensor(w, Scheme.as_published("int4", 256))
    whole = quantize_tensor(w, Scheme.as_published("int4", None))
    assert torch.equal(published.dequantize(), whole.dequantize())
    assert len(published.scales) == 1
    # Llama-30B's matrices all fall back at 1,048,576: no multiple of it.
    assert 6656 * 6656 % 1_048_576
    assert 6656 * 17_920 % 1_048_576
    own = Scheme(blocks=Scheme.as_published("int4", 256).blocks)
    with pytest.raises(SuperweightsError, match="do not divide"):
        quantize_tensor(w, own)


def test_the_fallback_drops_the_plus_one_of_block_shares():
    w = (torch.arange(300.0) / 300).reshape(10, 30)
    q = quantize_tensor(w, Scheme.as_published("int8", 256, Clip("block_share", 0.01)))
    # k = int(300 * 0.01) = 3: the third largest is the limit, and two are clipped.
    assert float(q.dequantize().max()) == pytest.approx(297 / 300, abs=1e-6)


@pytest.mark.parametrize("grid", ["nf4", "nf3"])
def test_published_normal_floats_are_affine_and_lose_zero(grid):
    w = gaussian(4, 64)
    w[:, 0] = 0
    w[:, 1], w[:, 2] = 0.09, -0.05
    rounded = quantize_tensor(w, Scheme.as_published(grid, 64)).dequantize()
    assert torch.allclose(rounded.amax(1), w.amax(1), atol=1e-6)
    assert torch.allclose(rounded.amin(1), w.amin(1), atol=1e-6)
    assert (rounded[:, 0] != 0).all()
    kept = quantize_tensor(w, Scheme(grid, "none", Scheme.as_published("int4", 64).blocks)).dequantize()
    assert (kept[:, 0] == 0).all()


def test_half_precision_arithmetic_moves_some_weights():
    w = gaussian(64, 256).half()
    scheme = Scheme.as_published("int4", 4096)
    half, single = quantize_tensor(w, scheme), quantize_tensor(w.float(), scheme)
    moved = (half.codes != single.codes).float().mean()
    assert 0 < moved < 0.02


def test_published_clips_the_super_weight_too_and_then_restores_it():
    w = gaussian(16, 64)
    w[3, 5] = 2.0
    scheme = Scheme.as_published("int4", 1024, Clip("z_of_absolute", 9))
    q = quantize_tensor(w, scheme, keep=[(3, 5)])
    size = w.abs()
    limit = float(size.mean() + 9 * size.std())
    assert float(q.dequantize(kept=False)[3, 5]) == pytest.approx(limit, rel=1e-5)
    assert q.dequantize()[3, 5] == 2.0
    assert torch.equal(q.scales, quantize_tensor(w, scheme).scales)


@pytest.mark.parametrize("grid", [*INTEGERS, "nf4", "nf3"])
def test_a_constant_block_is_refused_where_the_published_code_makes_nan(grid):
    with pytest.raises(SuperweightsError, match="constant"):
        quantize_tensor(torch.ones(4, 64), Scheme.as_published(grid, 64))


def test_the_caller_s_tensor_is_never_written_to():
    w = gaussian(16, 64)
    before = w.clone()
    quantize_tensor(w, Scheme.as_published("int4", 256), keep=[(1, 1)]).dequantize().mul_(0)
    assert torch.equal(w, before)
