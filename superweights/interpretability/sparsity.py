"""How sparse the neurons are, how far they spike, and whether the weights have drifted below zero.

Source: "Bug or Feature²" (arXiv 2605.17659): with activations that are positive on average, the gradient
pushes the weights behind them down; measures as in its code: exact zeros and negatives among a linear's
inputs, mean and deviation of its weights, the share of negative weights, the largest input. Where we differ: GELU
and SiLU have no exact zeros, so neurons below 0.01 are counted as soft zeros under that name; a drift is stated
in standard errors of a mean of symmetric weights, because a million weights have a mean by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score
from superweights.taps import Site, Tap

SOFT = 0.01


@dataclass(frozen=True)
class Drift:
    """One matrix: the mean of its weights in their standard deviations, that mean in standard errors of a
    symmetric draw of as many (`z`), and the share of weights below zero.
    """

    layer: int
    """Counted from 0."""
    name: str
    """Which matrix of the layer."""
    drift: float
    """The mean in standard deviations."""
    z: float
    negative: float
    """The share of weights below zero."""


@dataclass(frozen=True)
class LayerNeurons:
    """The neurons of one layer (the input of its down-projection): shares of exact zeros, of |h| < 0.01 and of
    negatives over all tokens; the largest |h| at the first token and at the others, and which neuron it was;
    `median` is of a seventeenth of them; `dead` is how many neurons are the same at every token.
    """

    layer: int
    zeros: float
    soft_zeros: float
    """The share of |h| < 0.01."""
    negative: float
    """The share below zero."""
    spike_first: float
    """The largest |h| at the first token."""
    neuron_first: int
    """Which neuron that is."""
    spike: float
    """The largest |h| at the other tokens."""
    neuron: int
    median: float
    dead: int


@dataclass(frozen=True)
class Sparsity:
    """Sparsity, spikes and drift, layer by layer, for a model with this activation function (None: not said)."""

    activation: str | None
    layers: tuple[LayerNeurons, ...]
    """One for each layer."""
    drifts: tuple[Drift, ...]
    """One for each matrix."""
    tokens: int
    """On how many tokens."""

    def scores(self) -> tuple[Score, ...]:
        n = self.tokens
        mean = {
            what: sum(getattr(e, what) for e in self.layers) / len(self.layers)
            for what in ("zeros", "soft_zeros")
        }
        largest = max(self.layers, key=lambda each: max(each.spike, each.spike_first))
        down = [each for each in self.drifts if each.name == "down-projection"]
        found = [
            Score("exact zeros", mean["zeros"], "of neurons", n),
            Score(f"neurons below {SOFT:g}", mean["soft_zeros"], "of neurons", n),
            Score(f"largest neuron (layer {largest.layer})", max(largest.spike, largest.spike_first), "", n),
        ]
        if down:
            drift = sum(each.drift for each in down) / len(down)
            found.append(Score("drift of down-projections", drift, "standard deviations", len(down)))
        return tuple(found)

    def sheets(self) -> tuple[Sheet, ...]:
        titles = ("layer", "zeros", f"below {SOFT:g}", "negative", "spike, first token", "neuron", "spike, others",
                  "neuron", "median", "dead")  # fmt: skip
        rows = [tuple(vars(each).values()) for each in self.layers]
        note = f"{self.tokens} tokens; activation function {self.activation or 'not said'}."
        names = list(dict.fromkeys(each.name for each in self.drifts))
        by = {(each.layer, each.name): each for each in self.drifts}
        drifts = [
            (name, *_summary([by[layer, name] for layer in self._layers() if (layer, name) in by]))
            for name in names
        ]
        heads = ("weights", "drift, mean", "lowest", "highest", "layers with z < -3", "with z > 3",
                 "negative share")  # fmt: skip
        return (
            Sheet("neurons", titles, rows, note),
            Sheet(
                "drift of the weights",
                heads,
                drifts,
                "drift: mean over standard deviation of a matrix's weights.",
            ),
        )

    def panels(self) -> tuple[Panel, ...]:
        shares = [
            Series.over_layers(f"below {SOFT:g}", [e.soft_zeros for e in self.layers]),
            Series.over_layers("negative", [e.negative for e in self.layers]),
            Series.over_layers("exact zeros", [e.zeros for e in self.layers]),
        ]
        spikes = [
            Series.over_layers("first token", [e.spike_first for e in self.layers]),
            Series.over_layers("other tokens", [e.spike for e in self.layers]),
            Series.over_layers("median", [e.median for e in self.layers], dashed=True),
        ]
        down = [(e.layer, e.drift) for e in self.drifts if e.name == "down-projection"]
        return (
            line_chart("sparsity of neurons", "layer", "share", shares),
            line_chart("spikes of neurons", "layer", "largest |h|", spikes, log=True),
            line_chart(
                "drift of the down-projection", "layer", "mean / deviation", [Series("down-projection", down)]
            ),
        )

    def _layers(self) -> range:
        return range(len(self.layers))


class Sparsities:
    """The question as a reduction: counts and maxima, and the weights' moments when a layer first runs."""

    def __init__(self) -> None:
        self._counts: dict[int, Tensor] = {}
        self._peaks: dict[int, list[tuple[float, int]]] = {}
        self._medians: dict[int, list[float]] = {}
        self._range: dict[int, tuple[Tensor, Tensor]] = {}
        self._drifts: dict[int, list[Drift]] = {}
        self._tokens = 0
        self._body: Body | None = None

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        layers = body.sites.layers_with("mlp_act")
        if not layers:
            reason = body.sites.refusals().get("mlp_act", "it has none")
            raise SuperweightsError(
                f"The neurons of {type(body.model).__name__} cannot be seen: {reason}.",
                hint="ask another question of this model.",
            )
        self._body = body
        return {Site("mlp_act", layer): lambda h, layer=layer: self._note(layer, h) for layer in layers}

    def begin(self, ids: Tensor) -> None:
        self._tokens += ids.numel()

    def _note(self, layer: int, neurons: Tensor) -> None:
        size = neurons.abs()
        n = torch.tensor(neurons.numel(), device=neurons.device)
        # count_nonzero: the sum of a comparison takes several times as long on a CPU
        counts = [
            n - torch.count_nonzero(neurons),
            torch.count_nonzero(size < SOFT),
            torch.count_nonzero(neurons < 0),
            n,
        ]
        held = self._counts.setdefault(layer, torch.zeros(4, dtype=torch.float64))
        held += torch.stack([count.double().cpu() for count in counts])
        peaks = self._peaks.setdefault(layer, [(0.0, 0), (0.0, 0)])
        for number, part in enumerate((size[:, :1], size[:, 1:])):
            if part.numel() and (value := part.max().item()) > peaks[number][0]:
                peaks[number] = value, int(part.amax((0, 1)).argmax())
        self._medians.setdefault(layer, []).append(size.flatten()[::17].float().median().item())
        flat = neurons.flatten(0, 1)
        low, high = flat.amin(0).cpu(), flat.amax(0).cpu()
        if layer in self._range:
            low, high = torch.minimum(low, self._range[layer][0]), torch.maximum(high, self._range[layer][1])
        self._range[layer] = low.clone(), high.clone()
        if layer not in self._drifts:
            assert self._body is not None
            self._drifts[layer] = drifts_of(self._body, layer)

    def answer(self) -> Sparsity:
        assert self._body is not None
        layers = tuple(self._layer(layer) for layer in sorted(self._counts))
        drifts = tuple(each for layer in sorted(self._drifts) for each in self._drifts[layer])
        return Sparsity(_activation(self._body.model), layers, drifts, self._tokens)

    def _layer(self, layer: int) -> LayerNeurons:
        zeros, soft, negative, total = self._counts[layer].tolist()
        (first, neuron_first), (rest, neuron) = self._peaks[layer]
        low, high = self._range[layer]
        medians = self._medians[layer]
        return LayerNeurons(
            layer,
            zeros / total,
            soft / total,
            negative / total,
            first,
            neuron_first,
            rest,
            neuron,
            sum(medians) / len(medians),
            int((low == high).sum()),
        )


def drifts_of(body: Body, layer: int) -> list[Drift]:
    """The drift of every matrix of a block, while its weights are in memory; the MLP's last by that name."""
    block = body.model.get_submodule(body.sites.blocks[layer])
    down = body.module(Site("mlp_act", layer))
    found = []
    for name, parameter in block.named_parameters():
        if parameter.ndim < 2 or parameter.is_meta or not parameter.is_floating_point():
            continue
        known = parameter is getattr(down, "weight", None)
        found.append(
            drift_of(parameter.detach(), layer, "down-projection" if known else name.removesuffix(".weight"))
        )
    return found


def drift_of(weights: Tensor, layer: int = 0, name: str = "weights") -> Drift:
    """The drift of one matrix."""
    n = weights.numel()
    wide = weights.double()
    mean = wide.mean().item()
    deviation = math.sqrt(max(0.0, wide.norm().item() ** 2 / n - mean * mean))
    drift = mean / deviation if deviation else 0.0
    return Drift(layer, name, drift, drift * math.sqrt(n), torch.count_nonzero(weights < 0).item() / n)


def reduction(study: Any) -> Sparsities:
    """The question for `study`."""
    return Sparsities()


def _summary(drifts: list[Drift]) -> tuple[float, ...]:
    values = [each.drift for each in drifts]
    below, above = sum(each.z < -3 for each in drifts), sum(each.z > 3 for each in drifts)
    negative = sum(each.negative for each in drifts) / len(drifts)
    return sum(values) / len(values), min(values), max(values), below, above, negative


def _activation(model: Any) -> str | None:
    """The activation function's name as the config says it."""
    config = getattr(model, "config", None)
    names = ("hidden_activation", "hidden_act", "activation_function", "hidden_activation_function")
    return next((found for name in names if isinstance(found := getattr(config, name, None), str)), None)
