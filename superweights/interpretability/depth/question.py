"""What each block's depth is worth: how far it turns the residual stream, how its variance grows, what is lost
without it.

Source: "The Curse of Depth" (arXiv 2502.05795): performance drop of each removed block, angular distance between
the inputs of blocks l and l+n, layer-wise output variance. Where we differ from the code: every token counts
(not the last of a padded window), angles are taken without the arc cosine of a number near 1, the last state is the one
before the final norm, nothing is scaled row by row, and any number of blocks is measured. The published code
has none for the variance; ours is over the channels of each token, mean over tokens after the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from superweights.axes import Float
from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.interpretability.depth.skipping import Removal, removal_effects
from superweights.interpretability.pairs import Pairs
from superweights.interpretability.study import Study
from superweights.interpretability.words_of import number
from superweights.picture import Panel, Series, heat_map, line_chart
from superweights.record import Score
from superweights.taps import Site, Tap

# Windows that removal is scored on.
WINDOWS = 8


def angular_distance(
    one: Float[Tensor, "*rows d"], other: Float[Tensor, "*rows d"]
) -> Float[Tensor, "*rows"]:
    """The angle between `[..., d]` and `[..., d]` over π: 0 the same direction, 1/2 orthogonal, 1 opposite."""
    one, other = (
        functional.normalize(each if each.dtype == torch.float64 else each.float(), dim=-1)
        for each in (one, other)
    )
    # Kahan: the angle of a thin triangle from its sides, where acos of a cosine near 1 is rounding
    return 2 * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1)) / torch.pi


@dataclass(frozen=True)
class LayerDepth:
    """One block: the angle by which it turns a token, over π; the variance of its output over channels, of the
    first token and the mean of the others.
    """

    layer: int
    """The block, counted from 0."""
    angle: float
    variance: float
    """Mean over the tokens behind the first."""
    variance_first: float
    """Of the first token."""


@dataclass(frozen=True)
class Depth:
    """Depth by the angles and variances of the stream, and (causal) by what is lost without each block.

    `distances[n - 1][l]` is the mean angular distance between the stream before block l and before block
    l + n, over π, on up to 256 tokens of each batch.
    """

    layers: tuple[LayerDepth, ...]
    """One for each block."""
    distances: tuple[tuple[float, ...], ...]
    tokens: int
    base: Score | None = None
    """Perplexity of the whole model; None where nothing was taken out."""
    removals: tuple[Removal, ...] = ()
    """What is lost without each block."""

    def scores(self) -> tuple[Score, ...]:
        growth = (
            self.layers[-1].variance / self.layers[0].variance if self.layers[0].variance else float("nan")
        )
        found = (Score("growth of the variance, last block over first", growth, "times", self.tokens),)
        return found if self.base is None else (*found, self.base)

    def sheets(self) -> tuple[Sheet, ...]:
        titles = ["layer", "angle / π", "variance", "of the first token"]
        rows: list[list[Any]] = [[e.layer, e.angle, e.variance, e.variance_first] for e in self.layers]
        note = f"{self.tokens} tokens."
        if self.removals:
            titles += ["perplexity without it", "loss, nats/token", "rank"]
            order = sorted(self.removals, key=lambda each: -each.loss.value)
            for row, each in zip(rows, self.removals, strict=True):
                row += [number(each.perplexity), number(each.loss), order.index(each) + 1]
            middle = order[len(order) // 2]
            note += (
                f" Base perplexity {self.base}. Each block's control is the other blocks, one at a time: the median "
                f"removal (layer {middle.layer}) costs {middle.loss}."
            )
        return (Sheet("depth", titles, rows, note),)

    def panels(self) -> tuple[Panel, ...]:
        variance = [
            Series.over_layers("tokens after the first", [e.variance for e in self.layers]),
            Series.over_layers("first token", [e.variance_first for e in self.layers], dashed=True),
        ]
        angle = [Series.over_layers("angle / π", [e.angle for e in self.layers])]
        panels = [
            line_chart("how far a block turns the stream", "layer", "angle / π", angle),
            line_chart("variance after each block", "layer", "variance over channels", variance, log=True),
            heat_map(
                "angular distance",
                "layer l",
                "n - 1: distance between the inputs of l and l + n",
                self.distances,
            ),
        ]
        if self.base is not None:
            lost = [
                Series.over_layers("without the block", [e.perplexity.value for e in self.removals]),
                Series(
                    "as it is", [(0, self.base.value), (len(self.removals) - 1, self.base.value)], dashed=True
                ),
            ]
            panels.insert(
                0, line_chart("what is lost without each block", "layer", "perplexity", lost, log=True)
            )
        return tuple(panels)


class Depths:
    """The question as a reduction: angles and variances."""

    def __init__(self) -> None:
        self._n = self._firsts = 0
        self._angles: dict[int, float] = {}
        self._variances: dict[int, list[float]] = {}
        self._pairs = Pairs(lambda cosines: cosines.acos() / torch.pi)
        self._before: Tensor | None = None
        self._layers = 0

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        body.every("block_in", "block_out")
        self._layers = body.layers
        taps: dict[Site, Tap] = {}
        for layer in range(body.layers):
            taps[Site("block_in", layer)] = self._start
            taps[Site("block_out", layer)] = lambda h, layer=layer: self._note(layer, h)
        return taps

    def begin(self, ids: Tensor) -> None:
        if ids.shape[1] < 2:
            raise SuperweightsError(
                "Windows of one token have only first tokens.", hint="use longer windows."
            )
        self._n += ids.numel()
        self._firsts += len(ids)
        self._pairs.begin()

    def _start(self, hidden: Tensor) -> None:
        self._before = hidden.clone()
        self._pairs.note(hidden)

    def _note(self, layer: int, hidden: Tensor) -> None:
        assert self._before is not None
        turned = angular_distance(self._before, hidden).sum(dtype=torch.float64).item()
        self._angles[layer] = self._angles.get(layer, 0.0) + turned
        centred = hidden.float() - hidden.float().mean(-1, keepdim=True)
        spread = torch.linalg.vecdot(centred, centred) / hidden.shape[-1]
        held = self._variances.setdefault(layer, [0.0, 0.0])
        held[0] += spread[:, 0].sum(dtype=torch.float64).item()
        held[1] += spread[:, 1:].sum(dtype=torch.float64).item()
        if layer == self._layers - 1:
            self._pairs.note(hidden)
            self._pairs.end()

    def answer(self) -> Depth:
        layers = tuple(
            LayerDepth(
                layer, self._angles[layer] / self._n, rest / (self._n - self._firsts), first / self._firsts
            )
            for layer, (first, rest) in sorted(self._variances.items())
        )
        return Depth(layers, self._pairs.means(), self._n)


def reduction(study: Study) -> Depths:
    """The question for `study`, without interventions."""
    return Depths()


def investigate(study: Study) -> Depth:
    """The question for `study`, with each block removed in turn on its first eight windows."""
    depth = study.ask(Depths())[0]
    base, removals = removal_effects(replace(study, ids=study.ids[:WINDOWS]))
    return replace(depth, base=base, removals=removals)
