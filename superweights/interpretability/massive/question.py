"""Where are massive activations born, carried and erased, and who writes them?

A massive activation is a number of the residual stream that is far larger than all others (Sun et al., arXiv
2402.17762: above 100 and about a thousand times the median, called `strict` here). It is born where a block's
output steps up, rides the residual stream, and is erased where it steps down; each step is written by
attention or by the MLP, and in the MLP mostly by one neuron through one weight. The layer of the largest
step up is the massive emergence layer (Shi et al., arXiv 2605.08504, who give no number for it).

Everything is followed at one token, the first by default: `share_here` says in how many rows the largest
activation stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from superweights.errors import SuperweightsError
from superweights.interpretability.body import Body
from superweights.interpretability.layer_kinds import attending_to_all, kinds_of_layers
from superweights.interpretability.massive.answer import Channel, LayerState, Massive
from superweights.interpretability.massive.events import Written, events_of
from superweights.interpretability.moments import Moments
from superweights.interpretability.rows import PerRow, score_of
from superweights.interpretability.study import Study
from superweights.record import Score
from superweights.taps import Site, Tap

_CHANNELS = 4
_SUN_SIZE, _SUN_RATIO = 100.0, 1000.0
_TINY = 1e-30


@dataclass(eq=False)
class _Held:
    """What is kept of one layer: sums over rows, of the size of a row of activations."""

    here: Moments | None = None  # the token's activations, over rows [d]
    units: Tensor | None = None  # sum of its directions [d]
    attention: Tensor | None = None  # sums of what is written to it [d]
    mlp: Tensor | None = None
    neurons: Tensor | None = None  # sum of its neurons [d_ff]
    channel: int = 0  # the channel that the MLP writes most to, in the first batch
    weights: Tensor | None = None  # the matrix' row of that channel [d_ff]
    largest: float = 0.0  # anything this layer holds, for headroom


class MassiveReduction:
    """The reduction behind `superweights anatomy massive`: answers with `Massive`.

    `position` is the token that is followed.
    """

    def __init__(self, position: int = 0):
        if position < 0:
            raise SuperweightsError("Positions count from 0.", hint="the first token is position 0.")
        self.position = position
        self._shape = (0, 0)
        self._width = 0
        names = ("peak", "share", "here", "elsewhere", "median", "norm", "strict", "along", "at")
        self._kept = {name: PerRow() for name in names}
        self._layers: dict[int, _Held] = {}
        self._start = PerRow()
        self._before: Tensor | None = None
        self._kinds: tuple[str, ...] = ()
        self._attending: tuple[int, ...] = ()

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        taps: dict[Site, Tap] = {Site("block_in", 0): self._on_start}
        taps |= {site: self._on_stream(site.layer or 0) for site in body.every("block_out")}
        self._layers = {layer: _Held() for layer in range(body.layers)}
        self._kinds, self._attending = kinds_of_layers(body), attending_to_all(body)
        for layer, held in self._layers.items():
            if Site("attn_write", layer) in body.sites.places:
                taps[Site("attn_write", layer)] = self._on_attention(held)
            if Site("mlp_write", layer) not in body.sites.places:
                continue
            has_neurons = Site("mlp_act", layer) in body.sites.places
            taps[Site("mlp_write", layer)] = self._on_mlp(held, body if has_neurons else None, layer)
            if has_neurons:
                taps[Site("mlp_act", layer)] = self._on_neurons(held)
        return taps

    def begin(self, ids: Tensor) -> None:
        if ids.shape[1] < self.position + 2:
            raise SuperweightsError(
                f"Windows of {ids.shape[1]} tokens have nothing beside position {self.position}.",
                hint=f"use windows of at least {self.position + 2} tokens.",
            )
        self._shape = self._shape[0] + ids.shape[0], ids.shape[1]

    def answer(self) -> Massive:
        rows, tokens = self._shape
        mean = {name: held.means() for name, held in self._kept.items() if held.layers}
        commonest = self._kept["at"].stacked().mode(1).values.long().tolist()
        states = tuple(
            LayerState(
                layer, mean["peak"][layer], mean["median"][layer], commonest[layer], mean["share"][layer],
                mean["here"][layer],
                mean["elsewhere"][layer], mean["norm"][layer], mean["strict"][layer],
                mean["along"][layer], _agreement(held.units, rows), _channels(held.here), self._kinds[layer],
            )
            for layer, held in self._layers.items()
        )  # fmt: skip
        written = [self._written(held, rows) for held in self._layers.values()]
        start = self._start.means()[0]
        events = events_of(
            start, [state.here for state in states], [state.median for state in states], written
        )
        return Massive(
            rows,
            tokens,
            self._width,
            self.position,
            states,
            events,
            largest=max(held.largest for held in self._layers.values()),
            summary=self._summary(states),
            attending=self._attending,
        )

    def _summary(self, states: tuple[LayerState, ...]) -> tuple[Score, ...]:
        top = max(states, key=lambda state: state.here).layer
        peaks, medians = self._kept["here"].stacked()[top], self._kept["median"].stacked()[top]
        return (
            score_of(f"largest activation of token {self.position}, after layer {top}", peaks, ""),
            score_of("the same over the median", peaks / medians.clamp_min(_TINY), "times"),
        )

    def _written(self, held: _Held, rows: int) -> Written | None:
        """The mean of what attention and MLP write to the token, by channel; None where the model hides it."""
        if held.attention is None or held.mlp is None:
            return None
        neurons = None if held.neurons is None else held.neurons / rows
        return Written(held.attention / rows, held.mlp / rows, held.channel, held.weights, neurons)

    def _on_start(self, hidden: Tensor) -> None:
        self._width = hidden.shape[-1]
        here = hidden[:, self.position].float()
        self._start.add(0, here.abs().amax(-1))
        self._before = here

    def _on_stream(self, layer: int) -> Tap:
        def look(hidden: Tensor) -> None:
            held, kept = self._layers[layer], self._kept
            sizes = hidden.detach().abs()
            peaks = sizes.amax(-1).float()
            largest, at = peaks.max(1)
            median = _medians(sizes.flatten(1))
            here = hidden[:, self.position].float()
            peak_here = peaks[:, self.position].clone()
            norms = hidden.float().norm(dim=-1)
            peaks[:, self.position] = 0
            others = (norms.sum(1) - norms[:, self.position]) / (norms.shape[1] - 1)
            kept["peak"].add(layer, largest)
            kept["share"].add(layer, at == self.position)
            kept["at"].add(layer, at)
            kept["here"].add(layer, peak_here)
            kept["elsewhere"].add(layer, peaks.amax(1))
            kept["median"].add(layer, median)
            kept["norm"].add(layer, norms[:, self.position] / others)
            kept["strict"].add(layer, (peak_here > _SUN_SIZE) & (peak_here >= _SUN_RATIO * median))
            before, self._before = self._before, here
            assert before is not None
            kept["along"].add(layer, cosine_similarity(before, here, dim=-1))
            units = normalize(here, dim=-1).sum(0).double().cpu()
            held.units = units if held.units is None else held.units + units
            moments = Moments.of(here, 0)
            held.here = moments if held.here is None else held.here.merged(moments)
            held.largest = max(held.largest, largest.max().item())

        return look

    def _on_attention(self, held: _Held) -> Tap:
        def look(written: Tensor) -> None:
            held.attention = _added(held.attention, written[:, self.position])
            held.largest = max(held.largest, _largest(written))

        return look

    def _on_neurons(self, held: _Held) -> Tap:
        def look(neurons: Tensor) -> None:
            held.neurons = _added(held.neurons, neurons[:, self.position])
            held.largest = max(held.largest, _largest(neurons))

        return look

    def _on_mlp(self, held: _Held, body: Body | None, layer: int) -> Tap:
        def look(written: Tensor) -> None:
            held.mlp = _added(held.mlp, written[:, self.position])
            held.largest = max(held.largest, _largest(written))
            if body is not None and held.weights is None:
                held.channel = int(held.mlp.abs().argmax())
                held.weights = body.matrix(Site("mlp_act", layer))[held.channel].double().cpu().clone()

        return look


def _added(held: Tensor | None, rows: Tensor) -> Tensor:
    """`held` and the sum of `rows [B, n]`."""
    found = rows.detach().double().sum(0).cpu()
    return found if held is None else held + found


def _largest(tensor: Tensor) -> float:
    """The largest magnitude, without a second tensor of that size."""
    return max(abs(end.item()) for end in tensor.aminmax())


def _medians(rows: Tensor) -> Tensor:
    """The lower median of each of `rows [n, k]`. numpy's selection takes a fifth of torch's time on a processor."""
    if rows.device.type != "cpu":
        return rows.float().median(1).values
    middle = (rows.shape[1] - 1) // 2
    return torch.from_numpy(np.partition(rows.float().numpy(), middle, axis=1)[:, middle].copy())


def _agreement(units: Tensor | None, rows: int) -> float | None:
    """The mean cosine of the token's direction between two rows; None for a single row."""
    if units is None or rows < 2:
        return None
    return ((units.square().sum().item()) - rows) / (rows * (rows - 1))


def _channels(here: Moments | None) -> tuple[Channel, ...]:
    """The channels with the largest mean, with their spread over rows."""
    assert here is not None
    top = here.mean.abs().topk(min(_CHANNELS, len(here.mean))).indices.tolist()
    spread = (here.second / max(here.count - 1, 1)).sqrt() if here.count > 1 else None
    return tuple(
        Channel(channel, here.mean[channel].item(), None if spread is None else spread[channel].item())
        for channel in top
    )


def reduction(study: Study) -> MassiveReduction:
    """The reduction for `study`."""
    return MassiveReduction()
