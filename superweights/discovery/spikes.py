"""Products whose one term makes the output: an outlier input times an outlier weight, at the same token.

Column first (superweights' own rule): neurons that spike against their layer, then every output channel
that this one neuron dominates; and row first: outputs that spike, then the one neuron that makes them. The
published script pairs the largest input and the largest output of a layer, which may belong to different
tokens and shows one weight per layer (arXiv 2411.07191, section 3.1, and its code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.watch import Product

# How many spiking outputs and neurons of one product are looked at; a super neuron has a handful of rows.
_OUTPUTS, _NEURONS = 8, 4
# The writers of a neuron are the weights of its column whose product is this share of the largest; so many of them.
_WRITES, _WRITERS = 0.1, 8
# A gain counts as an outlier of its norm from this multiple of the median gain.
_GAIN_RATIO = 3.0


@dataclass(frozen=True)
class Spike:
    """One parameter element whose product makes an outlier output.

    `spike_in`, `spike_out`: input and output of the product at the token (`row` of the product) where the
    output is largest; `ratio_out`: that channel's largest output over the median channel's; `dominance`:
    `spike_in * weight / spike_out`.
    """

    kind: str
    """weight, gain (of a norm) or bias."""
    parameter: str
    """The parameter's name in the running model."""
    index: tuple[int, ...]
    """Its place in that parameter."""
    value: float
    """The parameter element itself."""
    spike_in: float
    spike_out: float
    dominance: float
    ratio_out: float
    out_channel: int
    """The output channel that it writes."""
    in_neuron: int | None
    """The input neuron that it reads; None for gains and biases."""
    width: int
    """How many output channels the product has."""
    row: int | None
    """The token, as a row of the product; None where a bias spikes at all of them."""


@dataclass(frozen=True)
class Fan:
    """What one neuron writes at the token where it spikes: two or more weights of its column, the largest first."""

    writers: tuple[Spike, ...]
    """The weights that write, the largest product first."""


class SpikeReader:
    """Collects the spikes and fans of the products that a watch sees, until they are taken."""

    def __init__(self, min_ratio: float):
        self._min_ratio = min_ratio
        self._found: list[Spike] = []
        self._fans: list[Fan] = []
        self._norms: list[Product] = []

    def see(self, product: Product) -> None:
        read = {"weight": read_weight, "gain": read_gain, "bias": read_bias}[product.kind]
        spikes = read(product, self._min_ratio)
        self._found += spikes
        if product.kind != "weight":
            self._norms.append(product)
        elif spikes:
            self._fans += read_fans(product, spikes, self._min_ratio)

    def take(self) -> tuple[list[Spike], list[Fan]]:
        """The spikes and the fans since the last taking."""
        found, fans, self._found, self._fans = self._found, self._fans, [], []
        return found, fans

    def post_norm_gains(self, after: Tensor) -> list[Spike] | None:
        """The gains of the spiking channels of a block's norms, where it ends in one; None where it ends in none.

        `after` is what the block puts out. Where that is a norm's own output (post-norm), each norm as wide as the
        stream is part of it: what spikes in the sum before it is cut down to the norm's scale, and the gain holds the
        channel up however ordinary its size.
        """
        norms, self._norms = self._norms, []
        rows = after.detach().flatten(0, -2)
        ends = any(norm.y.shape == rows.shape and torch.equal(norm.y, rows) for norm in norms)
        gains = [norm for norm in norms if norm.kind == "gain" and norm.y.shape == rows.shape]
        if not (ends and gains):
            return None
        return [spike for gain in gains for spike in read_gain(gain, self._min_ratio, outliers=False)]


def read_weight(product: Product, min_ratio: float) -> list[Spike]:
    """The weights that make spiking outputs of a linear product, by row and by column."""
    x, y, weight = product.x.float(), product.y.float(), product.operand
    peak = _peaks(y, product.parameter)
    ratio = peak / _median(peak)
    outputs = [j for j in _top(peak, _OUTPUTS) if ratio[j] >= min_ratio]
    if not outputs:
        return []
    pairs = {}
    for j in outputs:
        row = int(y[:, j].abs().argmax())
        terms = x[row] * weight[j].float()
        pairs[j, int(terms.abs().argmax())] = row
    neurons = _peaks(x, product.parameter)
    for k in [k for k in _top(neurons, _NEURONS) if neurons[k] >= min_ratio * _median(neurons)]:
        row = int(x[:, k].abs().argmax())
        terms = x[row, k] * weight[:, k].float()
        own_ratio = y[row].abs() / _median(peak)
        for j in [j for j in _top(terms.abs(), _OUTPUTS) if own_ratio[j] >= min_ratio]:
            pairs.setdefault((j, k), row)
    return [_weight_spike(product, x, y, j, k, row, _median(peak)) for (j, k), row in pairs.items()]


def read_fans(product: Product, spikes: list[Spike], min_ratio: float) -> list[Fan]:
    """The fans of the neurons that make `spikes`: each with every weight of its column that writes a spike too."""
    x, y, weight = product.x.float(), product.y.float(), product.operand
    median = _median(_peaks(y, product.parameter))
    fans = []
    for k in dict.fromkeys(spike.in_neuron for spike in spikes):
        assert k is not None, "spikes of weights have a neuron"
        row = int(x[:, k].abs().argmax())
        terms = (x[row, k] * weight[:, k].float()).abs()
        bar = max(_WRITES * float(terms.max()), min_ratio * float(median))
        writers = [j for j in _top(terms, _WRITERS) if terms[j] >= bar]
        if len(writers) > 1:
            fans.append(Fan(tuple(_weight_spike(product, x, y, j, k, row, median) for j in writers)))
    return fans


def read_gain(product: Product, min_ratio: float, outliers: bool = True) -> list[Spike]:
    """The gains of a norm whose output spikes where they stand: those that are `outliers` themselves, or all."""
    y, gain = product.y.float(), product.operand.float().abs()
    peak = _peaks(y, product.parameter)
    ratio = peak / _median(peak)
    large = [
        j
        for j in _top(peak, 3)
        if ratio[j] >= min_ratio and not (outliers and gain[j] < _GAIN_RATIO * _median(gain).item())
    ]
    spikes = []
    for j in large:
        row = int(y[:, j].abs().argmax())
        value, out = float(product.operand[j]), float(y[row, j])
        spikes.append(_scalar_spike(product, j, row, value, out / value, out, 1.0, float(ratio[j])))
    return spikes


def read_bias(product: Product, min_ratio: float) -> list[Spike]:
    """The biases that make most of a spiking output."""
    y, bias = product.y.float(), product.operand.float()
    peak = _peaks(y, product.parameter)
    ratio = peak / _median(peak)
    spikes = []
    for j in [j for j in _top(peak, 3) if ratio[j] >= min_ratio]:
        row = int(y[:, j].abs().argmax())
        value, out = float(bias[j]), float(y[row, j])
        spikes.append(_scalar_spike(product, j, row, value, 1.0, out, value / out, float(ratio[j])))
    return spikes


def _weight_spike(product: Product, x: Tensor, y: Tensor, j: int, k: int, row: int, median: Tensor) -> Spike:
    spike_in, spike_out, value = float(x[row, k]), float(y[row, j]), float(product.operand[j, k])
    return Spike(
        kind="weight",
        parameter=product.parameter,
        index=product.index(j, k),
        value=value,
        spike_in=spike_in,
        spike_out=spike_out,
        dominance=spike_in * value / spike_out if spike_out else 0.0,
        ratio_out=abs(spike_out) / float(median),
        out_channel=j,
        in_neuron=k,
        width=y.shape[-1],
        row=row if product.shape is not None else None,
    )


def _scalar_spike(product, j, row, value, spike_in, spike_out, dominance, ratio) -> Spike:
    return Spike(
        kind=product.kind,
        parameter=product.parameter,
        index=product.index(j),
        value=value,
        spike_in=spike_in,
        spike_out=spike_out,
        dominance=dominance,
        ratio_out=ratio,
        out_channel=j,
        in_neuron=None,
        width=product.y.shape[-1],
        row=row if product.shape is not None else None,
    )


def _peaks(values: Tensor, parameter: str) -> Tensor:
    """The largest magnitude of each column. Raises `SuperweightsError` where there is a NaN or an infinity."""
    peaks = values.abs().amax(0)
    if not torch.isfinite(peaks).all():
        raise SuperweightsError(
            f"The forward pass meets NaN or infinity at {parameter}.",
            hint="run superweights scan to see whether the weights hold them; in float16 try --dtype float32.",
        )
    return peaks


def _median(peaks: Tensor) -> Tensor:
    """The median, kept above zero: many inputs of a ReLU network are exactly zero."""
    return peaks.median().clamp_min(1e-6 * float(peaks.max()) + 1e-30)


def _top(values: Tensor, count: int) -> list[int]:
    return values.topk(min(count, values.shape[0])).indices.tolist()
