"""What protection does, and where it does nothing, on a weight planted far outside its neighbours."""

from __future__ import annotations

import pytest
import torch

from superweights.quantization import Blocks, Clip, Scheme, protection_report, quantize_tensor

pytestmark = pytest.mark.unit

PLANTED = (3, 7)
CHANNEL = Blocks("channel", ())


def planted(value: float = 3.0) -> torch.Tensor:
    """A Gaussian matrix, sigma 0.05, with one weight of 60 sigma."""
    w = torch.randn(16, 256, generator=torch.Generator().manual_seed(0)) * 0.05
    w[PLANTED] = value
    return w


def in_company() -> torch.Tensor:
    """The planted weight is not the largest of its row: what SmolLM2-135M has, 5.88 beside 6.07."""
    w = planted()
    w[3, 100] = -3.1
    w[3, 101] = 3.1
    return w


def test_protection_of_an_extreme_changes_nothing_but_its_neighbours_under_min_max():
    w = in_company()
    w[3, 100] = w[3, 7] = 3.1  # as large as the block's extreme: on the grid already
    (report,) = protection_report(w, Scheme(blocks=CHANNEL, scale_dtype="float32"), [PLANTED])
    assert report.plain == pytest.approx(report.before, abs=1e-5)
    assert not report.restored
    assert not report.refined
    assert not report.changed
    assert "changed nothing" in str(report)


def test_restoring_alone_is_a_no_op_under_the_published_min_max():
    w = planted()
    for size in (256, 1024, None):
        (report,) = protection_report(w, Scheme.as_published("int4", size), [PLANTED])
        assert not report.changed
        assert "changed nothing" in str(report)


def test_holding_a_lone_extreme_out_refines_the_step_of_its_block():
    (report,) = protection_report(planted(), Scheme(blocks=CHANNEL), [PLANTED])
    assert not report.restored
    assert report.refined
    assert report.step_after < report.step_plain / 5
    assert report.neighbours_after < report.neighbours_plain
    assert "safe without protection" in str(report)


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(blocks=CHANNEL, clip=Clip("z", 6)),
        Scheme(blocks=CHANNEL, clip=Clip("z_of_absolute", 6)),
        Scheme(blocks=Blocks("tile", (16, 128)), clip=Clip("block_share", 0.01)),
        Scheme("nf4", "none", CHANNEL),
        Scheme("int4", "none", CHANNEL),
        Scheme("int4", "none", Blocks("run", (512,)), anchor="signed"),
        Scheme("int4", "float", CHANNEL, fit="mse"),
        Scheme("nf4", "float", Blocks("tensor", ())),
        Scheme("mxfp4", "none", Blocks("group", (32,))),
        Scheme.as_published("int4", 1024, Clip("z_of_absolute", 9)),
    ],
    ids=str,
)
def test_protection_keeps_the_weight_to_the_bit_and_helps_the_rest(scheme):
    w = planted()
    exact = w.clone()
    plain, held = quantize_tensor(w, scheme), quantize_tensor(w, scheme, keep=[PLANTED])
    assert held.dequantize()[PLANTED] == exact[PLANTED]
    assert torch.equal(w, exact)
    errors = [float((q.dequantize() - exact).norm()) for q in (plain, held)]
    assert errors[1] < errors[0]
    (report,) = protection_report(w, scheme, [PLANTED])
    assert report.changed
    assert report.after == report.before == 3.0


def test_a_clipped_super_weight_reports_its_loss_in_steps():
    w = planted()
    scheme = Scheme("int8", blocks=CHANNEL, clip=Clip("z", 6), scale_dtype="float32")
    (report,) = protection_report(w, scheme, [PLANTED])
    row = w[3]
    limit = float(row.mean() + 6 * row.std())
    assert report.plain == pytest.approx(limit, rel=1e-5)
    assert report.plain_steps == pytest.approx((limit - 3) / report.step_plain, rel=1e-4)
    assert report.restored
    assert "changed nothing" not in str(report)


def test_kept_weights_take_no_part_in_limits_and_scales():
    w = planted()
    scheme = Scheme(blocks=CHANNEL, clip=Clip("z", 3))
    huge = w.clone()
    huge[PLANTED] = 1e4
    ours, far = (quantize_tensor(x, scheme, keep=[PLANTED]) for x in (w, huge))
    assert torch.equal(ours.scales, far.scales)
    assert torch.equal(ours.codes, far.codes)
    assert far.dequantize()[PLANTED] == 1e4
    inside = ours.dequantize(kept=False)[PLANTED]
    assert abs(float(inside)) <= float(w[3].std()) * 4


def test_a_block_of_kept_weights_only_is_fine():
    w = planted()
    keep = [(3, k) for k in range(8)]
    for scheme in (
        Scheme(blocks=Blocks("group", (8,))),
        Scheme(blocks=Blocks("group", (8,)), clip=Clip("iqr", 2)),
        Scheme(blocks=Blocks("group", (8,)), fit="least_squares"),
        Scheme(blocks=Blocks("group", (8,)), fit="half_quadratic"),
        Scheme("nf4", "none", Blocks("group", (8,)), clip=Clip("z", 2)),
    ):
        q = quantize_tensor(w, scheme, keep=keep)
        assert torch.equal(q.dequantize()[3, :8], w[3, :8])
        assert q.dequantize().isfinite().all()


def test_reports_come_for_each_weight_once_and_in_order():
    reports = protection_report(planted(), Scheme(), [(5, 1), PLANTED, (5, 1)])
    assert [r.index for r in reports] == [PLANTED, (5, 1)]
