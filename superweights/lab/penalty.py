"""What rounding to few bits costs a model: perplexity rounded less perplexity as it is, on the same rows.

All linear layers are rounded, the output head and embeddings never. Scales of activations are static, calibrated on
other rows: dynamic ones hide what outliers do. Scheme names and granularities are those of a reproduction of Kaul et
al. (arXiv 2410.17174); six-bit activations and three-bit weights are added because eight bits cost tiny models nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from superweights.quantization import (
    ActivationScheme,
    Blocks,
    Scheme,
    calibrate,
    quantize_tensor,
    rounding_activations,
)
from superweights.quantization.linears import Linear, linears_of, observed, replaced, tokens_of
from superweights.scoring import loss_per_window

_TENSOR, _CHANNEL = Blocks("tensor", ()), Blocks("channel", ())


def _static(bits: int, blocks: Blocks) -> ActivationScheme:
    return ActivationScheme(
        bits, "static", weights=Scheme(f"int{bits}", "none", blocks, scale_dtype="float32")
    )


def _zero_point(bits: int) -> Scheme:
    return Scheme(f"int{bits}", "float", _CHANNEL, scale_dtype="float32")


# Activations and weights, both symmetric by the largest |x|: one scale for each tensor (coarse), or weights by output
# channel (moderate). Weights alone, from smallest to largest, by output channel.
BOTH = {
    "W8A8 coarse": _static(8, _TENSOR),
    "W8A8 moderate": _static(8, _CHANNEL),
    "W6A6 moderate": _static(6, _CHANNEL),
}
WEIGHTS = {"W4 zero point": _zero_point(4), "W3 zero point": _zero_point(3)}
FINE = "W8A8 fine"
NAMES = ("W8A8 coarse", "W8A8 moderate", FINE, "W6A6 moderate", "W4 zero point", "W3 zero point")


def penalties(model: nn.Module, ids: Tensor, calibration: Tensor) -> dict[str, float]:
    """For each scheme in `NAMES`: how much perplexity it adds on rows `ids [n, T]`, calibrated on `calibration`."""
    base = _perplexity(model, ids)
    found: dict[str, float] = {}
    for name, scheme in BOTH.items():
        limits = calibrate(model, calibration, scheme, batch_size=len(calibration))
        with rounding_activations(model, scheme, limits):
            found[name] = _perplexity(model, ids) - base
    with _rounded_finely(model, calibration):
        found[FINE] = _perplexity(model, ids) - base
    for name, scheme in WEIGHTS.items():
        with _rounded_weights(model, scheme):
            found[name] = _perplexity(model, ids) - base
    return {name: found[name] for name in NAMES}


def _perplexity(model: nn.Module, ids: Tensor) -> float:
    loss = loss_per_window(model, ids, batch_size=len(ids)).mean().item()
    return math.exp(min(loss, 700.0))


@contextmanager
def _rounded_weights(model: nn.Module, scheme: Scheme) -> Iterator[None]:
    """The model with its linear layers' weights rounded by `scheme`, for the length of a `with`."""
    rounded = {
        linear.name: quantize_tensor(linear.weight, scheme, (), linear.out_axis).dequantize().to(linear.weight.device)
        for linear in linears_of(model)
    }  # fmt: skip
    with replaced(linears_of(model), _product(lambda linear, x: x, rounded)):
        yield


@contextmanager
def _rounded_finely(model: nn.Module, calibration: Tensor) -> Iterator[None]:
    """W8A8 with one static scale for each input channel, and one for each output channel of the weights."""
    linears = linears_of(model)
    largest: dict[str, Tensor] = {}

    def look(linear: Linear, x: Tensor) -> None:
        here = tokens_of(x)[0].abs().amax(0)
        largest[linear.name] = torch.maximum(largest.get(linear.name, here), here)

    with torch.no_grad(), observed(linears, look):
        model(input_ids=calibration, use_cache=False)
    scheme = Scheme("int8", "none", _CHANNEL, scale_dtype="float32")
    rounded = {
        linear.name: quantize_tensor(linear.weight, scheme, (), linear.out_axis).dequantize()
        for linear in linears
    }

    def rounded_input(linear: Linear, x: Tensor) -> Tensor:
        step = (largest[linear.name] / 127).clamp_min(torch.finfo(torch.float32).tiny)
        return (x / step).round().clamp(-127, 127) * step

    with replaced(linears, _product(rounded_input, rounded)):
        yield


def _product(
    prepare: Callable[[Linear, Tensor], Tensor], weights: dict[str, Tensor]
) -> Callable[[Linear, Tensor], Tensor]:
    def forward(linear: Linear, x: Tensor) -> Tensor:
        weight = weights[linear.name].to(x)
        return nn.functional.linear(
            prepare(linear, x), weight if linear.out_axis == 0 else weight.T, linear.bias
        )

    return forward
