"""Steps of the largest activation from layer to layer, and who wrote each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

# A step is a change of the token's largest activation by these factors, where the larger side is massive: above
# 100 (Sun et al.) and above so many medians. The factors lie between those of SmolLM2's writers and erasers (up
# 3.6 to 545, down 0.20 to 0.41) and all other layers (0.9 to 1.1).
_UP, _DOWN, _SIZE, _RATIO = 3.0, 0.5, 100.0, 30.0


@dataclass(frozen=True, eq=False)
class Written:
    """The mean of what a layer writes to the token: by attention and MLP `[d]`, and how the MLP's largest
    channel comes about: the matrix' row of that channel and the neurons `[d_ff]` (None where hidden)."""

    attention: Tensor
    """What attention writes `[d]`."""
    mlp: Tensor
    """What the MLP writes `[d]`."""
    channel: int
    """The MLP's largest channel."""
    weights: Tensor | None
    """That channel's row of the matrix `[d_ff]`."""
    neurons: Tensor | None
    """The neurons that it is multiplied with `[d_ff]`."""


@dataclass(frozen=True)
class Event:
    """A step of the largest activation after `layer`: `born` (up) or `erased` (down), by `factor`.

    `channel` is the one that changes most, by `attention` and `mlp` (means over rows; None where the model
    hides its writes), and `writer` the larger of the two. `neuron` has the largest product in the MLP's write
    to that channel: `weight` times `activation`, which is `share` of all products' sum (before a post-norm).
    """

    layer: int
    kind: str
    """born or erased."""
    factor: float
    channel: int | None = None
    writer: str | None = None
    attention: float | None = None
    mlp: float | None = None
    neuron: int | None = None
    weight: float | None = None
    activation: float | None = None
    share: float | None = None


def events_of(
    start: float, peaks: Sequence[float], medians: Sequence[float], written: Sequence[Written | None]
) -> tuple[Event, ...]:
    """The steps among the token's `peaks` after each layer; `start` is the peak before the first."""
    found = []
    for layer, peak in enumerate(peaks):
        before = peaks[layer - 1] if layer else start
        factor = peak / max(before, 1e-30)
        if factor >= _UP and _is_massive(peak, medians[layer]):
            found.append(_event(layer, "born", factor, written[layer]))
        elif factor <= _DOWN and _is_massive(before, medians[max(layer - 1, 0)]):
            found.append(_event(layer, "erased", factor, written[layer]))
    return tuple(found)


def _is_massive(peak: float, median: float) -> bool:
    return peak > _SIZE and peak >= _RATIO * median


def _event(layer: int, kind: str, factor: float, written: Written | None) -> Event:
    if written is None:
        return Event(layer, kind, factor)
    total = written.attention + written.mlp
    channel = int(total.abs().argmax())
    attention, mlp = written.attention[channel].item(), written.mlp[channel].item()
    writer = "MLP" if abs(mlp) > abs(attention) else "attention"
    told = Event(layer, kind, factor, channel, writer, attention, mlp)
    if writer != "MLP" or written.channel != channel or written.weights is None or written.neurons is None:
        return told
    products = written.weights * written.neurons
    neuron = int(products.abs().argmax())
    return Event(
        layer, kind, factor, channel, writer, attention, mlp, neuron, written.weights[neuron].item(),
        written.neurons[neuron].item(), (products[neuron] / products.sum()).item(),
    )  # fmt: skip
