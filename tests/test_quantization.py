"""Rounding one tensor, against torch's own casts and fake quantization, GGML's blocks, HQQ, and closed forms."""

from __future__ import annotations

import itertools
import math

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superweights.errors import SuperweightsError
from superweights.quantization import Blocks, Clip, Scheme, quantize_tensor, rounding_error
from superweights.quantization.cutting import cut, join
from superweights.quantization.grids import codebook
from superweights.quantization.scheme import CODEBOOKS, INTEGERS, STANDARD_GROUPS

pytestmark = pytest.mark.unit

TENSOR, CHANNEL = Blocks("tensor", ()), Blocks("channel", ())
ALL_BLOCKS = (TENSOR, CHANNEL, Blocks("group", (7,)), Blocks("run", (12,)), Blocks("tile", (5, 4)))


def every_scheme(fit: str = "range", scale_dtype: str = "float16") -> list[Scheme]:
    """Every scheme with this fit that is not refused."""
    found = []
    grids = (*INTEGERS, *CODEBOOKS)
    for grid, zero, blocks, anchor in itertools.product(
        grids, ("none", "integer", "float"), ALL_BLOCKS, ("absolute", "signed")
    ):
        standard = STANDARD_GROUPS.get(grid)
        blocks = Blocks("group", (standard,)) if standard else blocks
        stored = "bfloat16" if grid.startswith("fp8") and scale_dtype == "float16" else scale_dtype
        try:
            found.append(Scheme(grid, zero, blocks, fit=fit, anchor=anchor, scale_dtype=stored))
        except SuperweightsError:
            continue
    return list(dict.fromkeys(found))


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def test_scheme_count_is_what_the_grids_allow():
    integers, codebooks = 7 * 5 * (2 + 1 + 1), 4 * 5 * 2
    assert len(every_scheme()) == integers + codebooks + 2


@pytest.mark.parametrize("fit", ["range", "mse", "half_quadratic", "least_squares", "centred"])
def test_every_scheme_survives_json(fit):
    for scheme in every_scheme(fit):
        assert Scheme.from_json(scheme.to_json()) == scheme
        assert scheme.grid in str(scheme)
        assert str(scheme.blocks) in str(scheme)


def test_a_scheme_of_damaged_json_is_refused():
    good = Scheme().to_json()
    for text in ("", "{}", "[]", good[:-4], good.replace("group", "heap"), good.replace('"fit"', '"fat"')):
        with pytest.raises(SuperweightsError, match=r"hint:"):
            Scheme.from_json(text)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Scheme("int9"),
        lambda: Scheme("int1"),
        lambda: Scheme("nf4", "integer"),
        lambda: Scheme("mxfp4", "none", Blocks("group", (64,))),
        lambda: Scheme("nvfp4", "float", Blocks("group", (16,))),
        lambda: Scheme("nf4", anchor="signed"),
        lambda: Scheme("int4", "none", fit="half_quadratic"),
        lambda: Scheme(scale_shift=True),
        lambda: Scheme("fp8_e4m3", paper_compat=True, scale_dtype="float32"),
        lambda: Scheme("fp8_e5m2", "none"),
        lambda: Scheme(scale_dtype="float64"),
        lambda: Blocks("group", (0,)),
        lambda: Blocks("group", ()),
        lambda: Blocks("tile", (4,)),
        lambda: Clip("z"),
        lambda: Clip("none", 3),
        lambda: Clip("z", -1),
        lambda: Clip("block_share", 1.5),
        lambda: Clip("z", float("nan")),
    ],
)
def test_what_means_nothing_is_refused_with_a_hint(wrong):
    with pytest.raises(SuperweightsError, match=r"hint: \S"):
        wrong()


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 40)),
        st.tuples(st.integers(1, 9), st.integers(1, 20)),
        st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 11)),
    ),
    kind=st.sampled_from(["tensor", "channel", "group", "tile"]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    last=st.booleans(),
)
@settings(deadline=None, max_examples=80, derandomize=True)
def test_what_is_cut_joins_again(shape, kind, size, last):
    blocks = Blocks(kind, {"group": size[:1], "tile": size}.get(kind, ()))
    out_axis = 0 if len(shape) == 1 else len(shape) - (1 if last else 2)
    tensor = torch.arange(1, math.prod(shape) + 1).reshape(shape)
    pieces = cut(tensor, blocks, out_axis)
    assert torch.equal(join(pieces, tensor.shape, blocks, out_axis), tensor)
    assert int((pieces != 0).sum()) == tensor.numel()


def test_groups_lie_along_the_input_and_tiles_are_two_dimensional():
    w = torch.arange(24).reshape(4, 6)
    assert cut(w, Blocks("group", (4,)))[1].tolist() == [4, 5, 0, 0]
    assert cut(w, Blocks("tile", (2, 3)))[1].tolist() == [3, 4, 5, 9, 10, 11]
    assert cut(w, Blocks("run", (8,)))[0].tolist() == list(range(8))
    assert torch.equal(cut(w.T, Blocks("group", (4,)), out_axis=1), cut(w, Blocks("group", (4,))))


@given(
    scheme=st.sampled_from(every_scheme() + every_scheme(scale_dtype="float32")),
    seed=st.integers(0, 2**31),
    size=st.floats(1e-4, 1e3),
    shift=st.floats(-3, 3),
)
@settings(deadline=None, max_examples=120, derandomize=True)
def test_no_error_exceeds_half_a_step_within_the_grid(scheme, seed, size, shift):
    w = (torch.randn(6, 10, generator=torch.Generator().manual_seed(seed)) + shift) * size
    q = quantize_tensor(w, scheme)
    error = (q.dequantize() - w).abs()
    # A signed anchor reaches 1/2^(N-1) less far on its other side, and MXFP4 saturates from 6 to 8 scales.
    half = 1.0 if scheme.anchor == "signed" or scheme.grid in STANDARD_GROUPS else 0.5
    slack = 1e-5 * w.abs().max() + 0.002 * q.steps()
    assert (error <= half * q.steps() + slack).all()


@pytest.mark.parametrize("fit", ["range", "mse", "half_quadratic", "least_squares", "centred"])
def test_rounding_is_repeatable_and_the_weight_is_not_touched(fit):
    w = gaussian(6, 10)
    before = w.clone()
    for scheme in every_scheme(fit):
        first, second = quantize_tensor(w, scheme), quantize_tensor(w, scheme)
        assert torch.equal(first.codes, second.codes), str(scheme)
        assert torch.equal(first.dequantize(), second.dequantize()), str(scheme)
        first.dequantize().zero_()
        assert torch.equal(w, before), str(scheme)


@pytest.mark.parametrize("fit", ["range", "mse", "half_quadratic", "least_squares", "centred"])
@pytest.mark.parametrize("value", [0.0, -0.75, 1e-5])
def test_constant_blocks_stay_constant_and_finite(fit, value):
    for scheme in every_scheme(fit):
        rounded = quantize_tensor(torch.full((5, 12), value), scheme).dequantize()
        assert rounded.isfinite().all(), str(scheme)
        if value == 0:
            assert not rounded.any(), str(scheme)
        elif scheme.grid not in STANDARD_GROUPS:
            # Exact but for the rounding of the stored scale; float16 cannot go below steps of 6e-8.
            share = 1e-2 if scheme.scale_dtype == "bfloat16" else 2e-3
            assert (rounded - value).abs().max() <= abs(value) * share + 4e-6, str(scheme)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_integer_zero_points_agree_with_torchs_fake_quantize(bits):
    w = gaussian(16, 40)
    scheme = Scheme(f"int{bits}", "integer", CHANNEL, scale_dtype="float32")
    q = quantize_tensor(w, scheme)
    zero_points = q.zero_points.flatten()
    oracle = torch.fake_quantize_per_channel_affine(
        w, q.scales.flatten(), zero_points.int(), 0, 0, 2**bits - 1
    )
    assert torch.allclose(q.dequantize(), oracle, atol=1e-7)
    assert int(zero_points.max()) <= 2**bits - 1


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_symmetric_integers_agree_with_torchs_fake_quantize(bits):
    w = gaussian(16, 40)
    q = quantize_tensor(w, Scheme(f"int{bits}", "none", TENSOR, scale_dtype="float32"))
    top = 2 ** (bits - 1) - 1
    assert float(q.scales) == pytest.approx(float(w.abs().max()) / top, rel=1e-6)
    oracle = torch.fake_quantize_per_tensor_affine(w, float(q.scales), 0, -top, top)
    assert torch.allclose(q.dequantize(), oracle, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)]
)
def test_float8_codes_are_those_of_torchs_cast(name, dtype):
    book = codebook(name)
    every = torch.arange(2**16).to(torch.int32).to(torch.uint16).view(torch.float16).float()
    inside = every[every.isfinite() & (every.abs() <= book.high)]
    codes = book.nearest(inside)
    assert torch.equal(codes.view(dtype).float(), inside.to(dtype).float())
    assert torch.equal(book.values(codes), inside.to(dtype).float())


def test_float8_scales_map_the_largest_weight_to_448():
    w = gaussian(4, 32)
    q = quantize_tensor(w, Scheme("fp8_e4m3", "none", CHANNEL, scale_dtype="float32"))
    oracle = (w / q.scales).to(torch.float8_e4m3fn).float() * q.scales
    assert torch.equal(q.dequantize(), oracle)
    assert torch.allclose(q.scales[:, 0], w.abs().amax(1) / 448, rtol=1e-6)


def test_mxfp4_is_what_gguf_writes():
    w = gaussian(8, 64)
    kind = gguf.GGMLQuantizationType.MXFP4
    oracle = gguf.quants.dequantize(gguf.quants.quantize(w.numpy(), kind), kind)
    q = quantize_tensor(w, Scheme("mxfp4", "none", Blocks("group", (32,))))
    assert np.array_equal(q.dequantize().numpy(), oracle)
    assert q.scales.dtype is torch.float8_e8m0fnu
    assert q.bits_per_weight == 4.25


def test_nvfp4_stores_e4m3_scales_under_one_float32_scale():
    w = gaussian(8, 64)
    q = quantize_tensor(w, Scheme("nvfp4", "none", Blocks("group", (16,))))
    # The recipe of NVFP4, written out: the tensor's scale maps the largest block scale to 448.
    tensor_scale = w.abs().max() / (6 * 448)
    scales = (
        (w.reshape(-1, 16).abs().amax(1, keepdim=True) / 6 / tensor_scale).to(torch.float8_e4m3fn).float()
    )
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels = torch.cat([levels, -levels[1:]])
    ratio = w.reshape(-1, 16, 1) / (scales * tensor_scale).unsqueeze(-1)
    oracle = levels[(ratio - levels).abs().argmin(-1)] * scales * tensor_scale
    assert torch.allclose(q.dequantize(), oracle.reshape(8, 64), atol=1e-7)
    assert q.stored_bits.total == 512 * 4 + 32 * 8 + 32


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("Q4_0", Scheme("int4", "none", Blocks("group", (32,)), anchor="signed")),
        ("Q8_0", Scheme("int8", "none", Blocks("group", (32,)))),
        ("Q4_1", Scheme("int4", "float", Blocks("group", (32,)))),
    ],
)
def test_ggmls_block_types_are_schemes_of_ours(kind, scheme):
    """GGML rounds the scale after it has used it, so a few codes differ, by one; sizes agree to the bit."""
    w = gaussian(32, 96)
    kind = gguf.GGMLQuantizationType[kind]
    packed = gguf.quants.quantize(w.numpy(), kind)
    theirs = torch.from_numpy(gguf.quants.dequantize(packed, kind).copy())
    ours = quantize_tensor(w, scheme)
    assert ours.stored_bits.total == packed.size * 8
    steps_off = (ours.dequantize() - theirs).abs() / ours.steps()
    storage = 2 ** (scheme.bits - 10) + 0.01  # a float16 scale off by 2^-11, times 2^bits; and its offset
    assert (steps_off < storage).float().mean() > 0.97
    assert steps_off.max() < 1 + storage


@pytest.mark.parametrize("name", ["nf4", "nf3"])
def test_normal_floats_take_the_nearest_level_of_the_whole_table(name):
    w = gaussian(9, 30)
    q = quantize_tensor(w, Scheme(name, "none", CHANNEL, scale_dtype="float32"))
    levels = codebook(name).by_code
    nearest = ((w / w.abs().amax(1, keepdim=True)).unsqueeze(-1) - levels).abs().argmin(-1)
    assert torch.equal(q.codes.long(), nearest)
    assert (q.dequantize(torch.float32)[w.abs() == w.abs().amax(1, keepdim=True)].abs() > 0).all()
    assert 0.0 in levels.tolist()


@pytest.mark.parametrize("fit", ["mse", "least_squares"])
def test_no_fit_is_worse_than_the_range_by_its_own_measure(fit):
    w = gaussian(64, 96, seed=3)
    counts = {"mse": lambda e: e**2}
    for scheme in every_scheme(fit):
        if scheme.blocks.kind != "channel":
            continue
        plain = Scheme(**{**vars(scheme), "fit": "range"})
        a, b = (quantize_tensor(w, s).dequantize() - w for s in (scheme, plain))
        weights = w.square() + w.square().mean(1, keepdim=True)
        measure = counts.get(fit, lambda e, weights=weights: weights * e**2)
        assert (measure(a).sum(1) <= measure(b).sum(1) * (1 + 1e-5)).all(), str(scheme)


@pytest.mark.parametrize("size", [0.02, 0.5])
def test_the_half_quadratic_fit_is_at_least_as_good_as_the_hqq_package(size):
    optimize = pytest.importorskip("hqq.core.optimize", reason="the hqq package is not installed")
    groups = gaussian(256, 64, seed=5) / 0.05 * size
    groups[0, 0] = 30 * size
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    scale = 15 / (high - low)
    codes, scale, zero = optimize.optimize_weights_proximal_legacy(
        groups, scale, (-low * scale).round(), [0, 15], axis=1, device="cpu"
    )[:3]
    theirs = (codes.float() - zero) / scale - groups
    scheme = Scheme("int4", blocks=CHANNEL, fit="half_quadratic", scale_dtype="float32")
    ours = quantize_tensor(groups, scheme).dequantize() - groups
    assert ours.abs().mean() <= theirs.abs().mean() * (1 + 1e-4)
    squared = Scheme("int4", blocks=CHANNEL, fit="centred", scale_dtype="float32")
    assert (quantize_tensor(groups, squared).dequantize() - groups).square().mean() < theirs.square().mean()


def test_the_centred_fit_leaves_a_smaller_mean_error_and_keeps_large_weights():
    w = gaussian(256, 64, seed=6)
    w[:, 0] = 1.0
    plain, centred = (
        quantize_tensor(w, Scheme("int4", blocks=CHANNEL, fit=fit)).dequantize() - w
        for fit in ("range", "centred")
    )
    assert centred.mean(1).abs().mean() < plain.mean(1).abs().mean() / 2
    step = float((w.amax(1) - w.amin(1)).mean()) / 15
    assert centred[:, 0].abs().max() < step / 2


@pytest.mark.parametrize("rule", ["z", "z_of_absolute", "block_share", "tensor_share", "iqr"])
def test_clip_limits_are_those_of_their_formula(rule):
    w = gaussian(4, 500, seed=1)
    amount = {"block_share": 0.01, "tensor_share": 0.1}.get(rule, 1.0)
    q = quantize_tensor(w, Scheme("int8", blocks=CHANNEL, clip=Clip(rule, amount), scale_dtype="float32"))
    size = w.abs()
    limit = {
        "z": lambda: w.mean(1) + w.std(1),
        "z_of_absolute": lambda: size.mean(1) + size.std(1),
        "block_share": lambda: size.sort(1, descending=True).values[:, 5],
        "tensor_share": lambda: size.flatten().sort(descending=True).values[199].expand(4),
        "iqr": lambda: 2 * size.quantile(0.75, 1) - size.quantile(0.25, 1),
    }[rule]()
    assert torch.allclose(q.dequantize().amax(1), limit, atol=1e-6)


def test_padding_takes_no_part_in_limits_and_scales():
    w = gaussian(3, 10) + 1  # far from the padding's 0
    clip = Clip("z", 1.5)
    padded = quantize_tensor(w, Scheme("int4", blocks=Blocks("group", (8,)), clip=clip))
    alone = quantize_tensor(w[:, 8:].contiguous(), Scheme("int4", blocks=CHANNEL, clip=clip))
    assert torch.equal(padded.dequantize()[:, 8:], alone.dequantize())
    tiled = quantize_tensor(w, Scheme("int4", blocks=Blocks("tile", (4, 16)), clip=clip))
    assert torch.equal(
        tiled.dequantize(), quantize_tensor(w, Scheme("int4", blocks=TENSOR, clip=clip)).dequantize()
    )


def test_stored_bits_count_codes_padding_scales_zero_points_and_kept_weights():
    w = gaussian(3, 10).half()
    q = quantize_tensor(w, Scheme("int4", blocks=Blocks("group", (8,))), keep=[(0, 1), (2, 9), (0, 1)])
    bits = q.stored_bits
    assert (bits.codes, bits.padding, bits.scales, bits.zero_points) == (30 * 4, 18 * 4, 6 * 16, 6 * 16)
    assert bits.kept == 2 * 8 * 10  # the ten bytes of section 3.3: two int32 and one float16
    assert q.bits_per_weight == (120 + 72 + 96 + 96 + 160) / 30
    integer = quantize_tensor(w, Scheme("int3", "integer", Blocks("group", (5,))))
    assert integer.stored_bits.total == 30 * 3 + 6 * 16 + 6 * 3
    assert Scheme("int4", "none", Blocks("group", (64,))).bits == 4


def test_large_tensors_are_worked_on_in_parts_with_the_same_result(monkeypatch):
    w = gaussian(30, 24)
    for scheme in every_scheme():
        whole = quantize_tensor(w, scheme, keep=[(3, 3)])
        monkeypatch.setattr("superweights.quantization.tensor._PART", 50)
        parts = quantize_tensor(w, scheme, keep=[(3, 3)])
        assert torch.equal(whole.dequantize(), parts.dequantize())
        assert torch.equal(whole.scales.float(), parts.scales.float())
        monkeypatch.undo()


def test_transposed_linears_and_stacked_experts_group_along_their_input():
    w = gaussian(2, 6, 20)
    scheme = Scheme("int4", blocks=Blocks("group", (8,)))
    stack = quantize_tensor(w, scheme, out_axis=1).dequantize()
    turned = quantize_tensor(w.transpose(1, 2), scheme, out_axis=2).dequantize()
    assert torch.equal(stack, turned.transpose(1, 2))
    assert torch.equal(stack[1], quantize_tensor(w[1], scheme).dequantize())
    assert torch.equal(stack[0].T, quantize_tensor(w[0].T, scheme, out_axis=1).dequantize())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_weight_comes_back(dtype):
    w = gaussian(4, 64).to(dtype)
    q = quantize_tensor(w, Scheme("int8"), keep=[(1, 2)])
    assert q.dequantize().dtype is dtype
    assert q.dequantize()[1, 2] == w[1, 2]
    assert q.dequantize(torch.float32).dtype is torch.float32


@pytest.mark.parametrize(
    ("weight", "scheme", "keep"),
    [
        (torch.tensor([[1.0, float("nan")]]), Scheme(), []),
        (torch.tensor([[1.0, float("inf")]]), Scheme(), []),
        (torch.ones(2, 2, dtype=torch.int8), Scheme(), []),
        (torch.ones(0, 4), Scheme(), []),
        (torch.ones(4, 4), Scheme(blocks=Blocks("run", (3,))), []),
        (torch.ones(2, 2, 2, 2), Scheme(), []),
        (torch.ones(4, 4), Scheme(), [(4, 0)]),
        (torch.ones(4, 4), Scheme(), [(1,)]),
        (torch.ones(4, 4), Scheme(), [(-1, 0)]),
        (torch.full((4, 4), 1e30), Scheme(), []),
    ],
)
def test_bad_input_is_refused_with_a_hint(weight, scheme, keep):
    with pytest.raises(SuperweightsError, match=r"hint: \S"):
        quantize_tensor(weight, scheme, keep)


def test_an_impossible_output_axis_is_refused():
    for shape, axis in (((4, 4), 2), ((2, 4, 4), 0), ((4,), 1), ((4, 4), -3)):
        with pytest.raises(SuperweightsError, match="output channels"):
            quantize_tensor(torch.ones(shape), Scheme(), out_axis=axis)


def test_rounding_error_is_the_one_computed_by_hand():
    w = torch.tensor([[0.0, 1.0, 2.4, 3.0]])
    q = quantize_tensor(w, Scheme("int2", blocks=CHANNEL, scale_dtype="float32"))
    error = rounding_error(w, q)
    assert q.dequantize().tolist() == [[0, 1, 2, 3]]
    assert error.largest == pytest.approx(0.4)
    assert error.largest_in_steps == pytest.approx(0.4)
    assert error.root_mean_square == pytest.approx(0.2)
    assert error.relative == pytest.approx(0.4 / math.sqrt(1 + 2.4**2 + 9))
    assert rounding_error(torch.zeros(1, 4), quantize_tensor(torch.zeros(1, 4), Scheme())).relative is None
