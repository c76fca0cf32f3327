"""A model whose linear layers compute with rounded inputs and weights, for the length of a `with`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.quantization.activation_scheme import ActivationScheme
from superweights.quantization.activations import (
    Limits,
    RoundedInput,
    RoundedWeight,
    product,
    round_input,
    round_weight,
)
from superweights.quantization.calibration import Calibration
from superweights.quantization.linears import Linear, linears_of, places_in, replaced, tokens_of, version_of
from superweights.quantization.smooth import Smoothing
from superweights.subject import is_streamed


@contextmanager
def rounding_activations(
    model: nn.Module,
    scheme: ActivationScheme,
    calibration: Calibration | None = None,
    *,
    integer: bool = True,
) -> Iterator[Rounding]:
    """`model` with rounded linear layers inside the `with`; no weight is written, and all is undone at the end.

    `calibration` is what `calibrate(model, windows, scheme)` found, for schemes that need it. With `integer`,
    inputs and weights are multiplied as integers where the weights' scheme allows (`torch._int_mm`, on the CPU);
    else as the floats that they stand for. Sums are float32 or exact integers; the output has the input's dtype.
    """
    rounding = Rounding(model, scheme, calibration, integer)
    try:
        with rounding.applied():
            yield rounding
    finally:
        rounding.release()


class Rounding:
    """The layers that are rounded and how much was held out so far.

    Rounded weights are kept while the model's are in memory, in `weights` where that is given: schemes that round and
    smooth them alike may share it. Those of a streamed model are rounded anew in each pass. Layers that read the same
    tensor round it once.
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: ActivationScheme,
        calibration: Calibration | None = None,
        integer: bool = True,
        weights: dict[str, RoundedWeight] | None = None,
    ):
        if scheme.calibrated and (calibration is None or calibration.scheme != scheme):
            raise SuperweightsError(
                f"This scheme needs a calibration of its own ({scheme}).",
                hint="pass calibrate(model, windows, scheme).",
            )
        self.scheme = scheme
        self.linears = linears_of(model, scheme)
        self.scalars: dict[str, int] = {linear.name: 0 for linear in self.linears}
        self.held: dict[str, int] = dict.fromkeys(self.scalars, 0)
        self._integer = integer
        self._keep = not is_streamed(model)
        self._weights = {} if weights is None else weights
        self._limits: dict[str, Limits] = {} if calibration is None else calibration.limits
        self._smoothing = Smoothing() if calibration is None else calibration.smoothing
        self._places = {linear.name: places_in(linear.name, scheme) for linear in self.linears}
        self._last: tuple[Any, Any, RoundedInput] | None = None

    def applied(self) -> AbstractContextManager[None]:
        """The model rounds while this is entered, as often as it is; rounded weights are kept in between."""
        return replaced(self.linears, self.forward)

    @property
    def held_share(self) -> float:
        """The share of all rounded scalars that were held out, over everything that ran so far."""
        return sum(self.held.values()) / max(sum(self.scalars.values()), 1)

    def forward(self, linear: Linear, x: Tensor) -> Tensor:
        """The layer's output for `x`, computed with rounded numbers."""
        rounded = self.rounded(linear, x)
        self.scalars[linear.name] += rounded.codes.numel()
        self.held[linear.name] += len(rounded.values)
        bias = linear.bias
        y = product(rounded, self.weight(linear), None if bias is None else bias.detach().float())
        return y.to(x.dtype).reshape(*x.shape[:-1], y.shape[-1])

    def rounded(self, linear: Linear, x: Tensor) -> RoundedInput:
        """`x` rounded as this layer reads it; what the layer before read of the same tensor is used again."""
        limits = self._limits.get(linear.name)
        key = (limits, self._places[linear.name], id(self._smoothing.scales.get(linear.name)), version_of(x))
        if self._last is not None and self._last[0] is x and self._last[1] == key:
            return self._last[2]
        rows, sequences = tokens_of(x)
        rows = self.smoothed(linear, rows)
        found = round_input(rows, self.scheme, sequences, limits=limits, places=self._places[linear.name])
        self._last = (x, key, found)
        return found

    def smoothed(self, linear: Linear, x: Tensor) -> Tensor:
        """`x [tokens, channels]` as this layer's integers stand for it: over SmoothQuant's scales, if any."""
        return self._smoothing.divide(linear.name, x)

    def release(self) -> None:
        """Forget the rounded weights; what was counted stays."""
        self._weights = {}
        self._last = None

    def weight(self, linear: Linear) -> RoundedWeight:
        """The layer's rounded weight."""
        known = self._weights.get(linear.name)
        if known is not None:
            return known
        scaled = self._smoothing.multiply(linear)
        weight = round_weight(scaled, self.scheme.weights, linear.out_axis, integer=self._integer)
        if self._keep:
            self._weights[linear.name] = weight
        return weight
