"""Rounding for what a matrix is multiplied with: the product errs less, kept weights stay, no more is stored."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from superweights.errors import SuperweightsError
from superweights.quantization import Blocks, Scheme, quantize_tensor
from superweights.quantization.second_order import Effort, InputMoments, round_by_inputs

pytestmark = pytest.mark.unit

GROUP = Blocks("group", (32,))
SCHEMES = [
    Scheme("int4", blocks=GROUP, fit="centred"),
    Scheme("int3", blocks=Blocks("run", (48,)), fit="centred"),
    Scheme("int4", zero_point="none", anchor="signed", blocks=GROUP),
    Scheme("int4", zero_point="integer", blocks=Blocks("channel", ())),
    Scheme("nf4", zero_point="none", blocks=Blocks("tile", (16, 40))),
    Scheme("mxfp4", zero_point="none", blocks=GROUP),
]
SUPER = Scheme("int4", blocks=GROUP, fit="centred", scale_dtype="super")


def matrix(outputs: int = 24, inputs: int = 96) -> torch.Tensor:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)) * 0.05
    weight[5, 7] = 3.0
    return weight


def correlated(inputs: int = 96, tokens: int = 400) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    mixed = torch.randn(inputs, inputs, generator=draw) * torch.rand(inputs, 1, generator=draw)
    return torch.randn(tokens, inputs, generator=draw) @ mixed


def moments_of(x: torch.Tensor) -> InputMoments:
    return InputMoments(x.T @ x / len(x))


def error(x: torch.Tensor, weight: torch.Tensor, quantized) -> float:
    """Of the product itself, not of the quantity that was minimised."""
    return float((x @ (quantized.dequantize(torch.float32) - weight).T).norm() / (x @ weight.T).norm())


@pytest.mark.parametrize("scheme", [*SCHEMES, SUPER], ids=lambda s: f"{s.grid} {s.blocks} {s.scale_dtype}")
def test_the_product_errs_less_than_after_rounding_weights_alone_and_no_more_is_stored(scheme):
    inputs = 256 if scheme is SUPER else 96
    weight, x = matrix(inputs=inputs), correlated(inputs, 1000)
    plain = quantize_tensor(weight, scheme, [(5, 7)])
    fitted = round_by_inputs(weight, scheme, moments_of(x), [(5, 7)])
    assert error(x, weight, fitted) < 0.8 * error(x, weight, plain)
    assert fitted.stored_bits == plain.stored_bits
    assert fitted.dequantize()[5, 7] == weight[5, 7]
    assert fitted.codes.dtype == plain.codes.dtype


def test_codes_of_a_small_matrix_are_nearly_the_best_of_all():
    x, weight = correlated(6, 50), matrix()[:1, :6]
    scheme = Scheme("int2", blocks=Blocks("channel", ()), zero_point="none", scale_dtype="float32")
    found = round_by_inputs(weight, scheme, moments_of(x), effort=Effort(damping=1e-6, rounds=0))
    scale = float(found.blocks.scales)
    grid = torch.tensor(list(product((-1.0, 0.0, 1.0), repeat=6))) * scale
    errors = (x @ (grid - weight).T).square().sum(0)
    ours = (x @ (found.dequantize(torch.float32) - weight).T).square().sum()
    assert ours <= errors.kthvalue(8).values  # of 729 ways to round it


def test_each_step_lowers_what_is_minimised():
    weight, x = matrix(), correlated()
    scheme = replace(SCHEMES[0], fit="second_order")
    errors = [
        error(x, weight, round_by_inputs(weight, scheme, moments_of(x), effort=Effort(1e-4, rounds)))
        for rounds in (0, 1, 3)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_a_transposed_matrix_is_rounded_the_same():
    weight, moments = matrix(), moments_of(correlated())
    scheme = replace(SCHEMES[0], fit="second_order")
    one = round_by_inputs(weight, scheme, moments, [(5, 7)])
    other = round_by_inputs(weight.T.contiguous(), scheme, moments, [(7, 5)], out_axis=1)
    assert torch.equal(one.dequantize(), other.dequantize().T)


def test_inputs_that_never_came_round_to_the_nearest():
    weight = matrix()
    moments = InputMoments(torch.zeros(96, 96))
    found = round_by_inputs(weight, SCHEMES[2], moments, effort=Effort(rounds=0))
    assert torch.equal(found.codes, quantize_tensor(weight, SCHEMES[2]).codes)


def test_weights_alone_are_refused():
    with pytest.raises(SuperweightsError, match="needs what the matrix is multiplied with"):
        quantize_tensor(matrix(), replace(SCHEMES[0], fit="second_order"))
