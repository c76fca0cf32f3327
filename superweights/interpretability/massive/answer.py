"""What `superweights anatomy massive` answers."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from superweights.interpretability.answer import Sheet
from superweights.interpretability.massive.events import Event
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score

FP16_LARGEST = 65504.0


@dataclass(frozen=True)
class Channel:
    """A channel of the followed token: its mean over rows and the standard deviation between them (None: one row)."""

    channel: int
    mean: float
    deviation: float | None

    @property
    def variation(self) -> float | None:
        """Deviation over mean: a constant has 0."""
        return None if self.deviation is None or self.mean == 0 else self.deviation / abs(self.mean)


@dataclass(frozen=True)
class LayerState:
    """The residual stream after a layer; means over rows.

    `peak`: the largest |h| over tokens and channels, `median` of all |h|;
    `peak_position` the position where most rows have it, `share_here`: rows whose peak is at
    the followed token; `here`, `elsewhere`: the largest |h| of that token, of all others; `norm_ratio`: its
    norm over the others' mean; `strict`: rows in which it meets both of Sun's criteria. `along`: cosine of its
    direction before and after the layer, `across`: between rows. `channels`: its largest.
    """

    layer: int
    peak: float
    median: float
    peak_position: int
    share_here: float
    here: float
    elsewhere: float
    norm_ratio: float
    strict: float
    along: float
    across: float | None
    channels: tuple[Channel, ...]
    kind: str | None = None
    """What the model's config calls the layer (full_attention, linear_attention, ...), else whether it attends."""


@dataclass(frozen=True)
class OfKind:
    """All layers of one kind: what becomes of the followed token's largest activation in them."""

    kind: str
    """As `LayerState.kind`."""
    layers: tuple[int, ...]
    """Which layers are of this kind."""
    born: tuple[int, ...]
    """Those that step up."""
    erased: tuple[int, ...]
    """Those that step down."""
    factor: float | None
    """By how much a layer multiplies it, the geometric mean; of the first layer nothing is known, None: of no other."""


@dataclass(frozen=True)
class Before:
    """The residual stream that a layer with full attention reads: where its spike sits."""

    layer: int
    """The layer that reads it."""
    since: tuple[str, ...]
    """The kinds of the layers since the full attention before it, in order."""
    peak: float
    """The largest |h| over tokens and channels, mean over rows."""
    over_median: float
    """That over the median of all |h|."""
    position: int
    """Where most rows have it."""
    here: float
    """The largest |h| of the followed token."""
    channel: int
    """The followed token's largest channel."""


@dataclass(frozen=True)
class Massive:
    """Massive activations of the token at `position`, layer by layer, and each step with its writer.

    `largest` is the largest magnitude in any block's output, write or neuron, of any row.
    """

    rows: int
    """How many texts."""
    tokens: int
    """Tokens of each."""
    width: int
    """Channels of the residual stream."""
    position: int
    layers: tuple[LayerState, ...]
    """The stream after each block."""
    events: tuple[Event, ...]
    """The steps, in order."""
    largest: float
    summary: tuple[Score, ...]
    """The few numbers that sum it up."""
    attending: tuple[int, ...] = ()
    """The layers with full attention."""

    @property
    def emergence(self) -> int | None:
        """The massive emergence layer: of the steps up, the one that rises most; None without any."""
        born = self.born
        return max(born, key=self._rise, default=None)

    @property
    def born(self) -> tuple[int, ...]:
        """The layers that step up."""
        return tuple(event.layer for event in self.events if event.kind == "born")

    @property
    def erased(self) -> tuple[int, ...]:
        """The layers that step down."""
        return tuple(event.layer for event in self.events if event.kind == "erased")

    @property
    def by_kind(self) -> tuple[OfKind, ...]:
        """Each kind of layer, in the order in which they first run; a single one is no hybrid."""
        kinds = dict.fromkeys(state.kind for state in self.layers if state.kind is not None)
        return tuple(self._of_kind(kind) for kind in kinds)

    @property
    def before(self) -> tuple[Before, ...]:
        """What each layer with full attention reads, but for the first layer of all, which reads the embeddings."""
        found = []
        for layer in (each for each in self.attending if each > 0):
            last = max((each for each in self.attending if each < layer), default=-1)
            since = tuple(self.layers[n].kind or "" for n in range(last + 1, layer))
            read = self.layers[layer - 1]
            over = read.peak / max(read.median, 1e-30)
            top = read.channels[0].channel
            found.append(Before(layer, since, read.peak, over, read.peak_position, read.here, top))
        return tuple(found)

    @property
    def headroom(self) -> float:
        """How many times the largest number fits into float16; below 1 it overflows."""
        return FP16_LARGEST / max(self.largest, 1e-30)

    def scores(self) -> tuple[Score, ...]:
        return (
            *self.summary,
            Score("float16 headroom", self.headroom, "times the largest number", self.rows),
        )

    def sheets(self) -> tuple[Sheet, ...]:
        states = [
            (s.layer, s.here, s.elsewhere, s.here / max(s.median, 1e-30), s.strict, s.share_here, s.norm_ratio, s.along,
             s.across, s.channels[0].channel, s.channels[0].mean, s.channels[0].variation)
            for s in self.layers
        ]  # fmt: skip
        columns = (
            "layer", "largest", "other tokens", "over median", "strict", "is here", "norm ratio", "cos before",
            "cos rows", "channel", "mean", "variation",
        )  # fmt: skip
        events = [
            (e.layer, e.kind, e.factor, e.channel, e.writer, e.attention, e.mlp, e.neuron, e.weight, e.activation,
             e.share)
            for e in self.events
        ]  # fmt: skip
        note = (
            f"no massive activation at token {self.position}"
            if self.emergence is None
            else f"massive emergence layer: {self.emergence}; born in {self.born}, erased in {self.erased}"
        )
        return (
            Sheet(
                f"Token {self.position} of the residual stream", columns, states,
                "strict: rows above 100 and 1000 medians; is here: rows whose largest activation is at this token; "
                "variation: standard deviation between rows over the mean",
            ),
            Sheet(
                "Who writes each step",
                ("layer", "is", "factor", "channel", "writer", "attention", "MLP", "neuron", "weight", "activation",
                 "its share"),
                events, note,
            ),
            *self._sheets_of_kinds(),
        )  # fmt: skip

    def panels(self) -> tuple[Panel, ...]:
        lines = [
            Series.over_layers(f"token {self.position}, largest", [s.here for s in self.layers]),
            Series.over_layers("all other tokens, largest", [s.elsewhere for s in self.layers]),
            Series.over_layers("median of all", [s.median for s in self.layers], dashed=True),
        ]
        marks = {float(event.layer): event.kind for event in self.events}
        return (
            line_chart("The residual stream after each layer", "layer", "|h|", lines, log=True, marks=marks),
        )

    def _sheets_of_kinds(self) -> tuple[Sheet, ...]:
        """Of a model whose layers are of several kinds: the kinds, and what each full attention reads."""
        kinds = self.by_kind
        if len(kinds) < 2:
            return ()
        rows = [(k.kind, len(k.layers), _listed(k.born), _listed(k.erased), k.factor) for k in kinds]
        read = [
            (b.layer, _counted(b.since), b.peak, b.over_median, b.position, b.here, b.channel)
            for b in self.before
        ]
        return (
            Sheet(
                "By kind of layer", ("kind", "layers", "born in", "erased in", "factor"), rows,
                f"factor: by which a layer multiplies the largest activation of token {self.position}, geometric mean",
            ),
            Sheet(
                "Before each layer with full attention",
                ("layer", "since the last", "largest", "over median", "at token", f"token {self.position}", "channel"),
                read, "the residual stream that it reads; means over rows",
            ),
        )  # fmt: skip

    def _of_kind(self, kind: str) -> OfKind:
        mine = tuple(state.layer for state in self.layers if state.kind == kind)
        factors = [
            self.layers[n].here / self.layers[n - 1].here for n in mine if n and self.layers[n - 1].here > 0
        ]
        known = [factor for factor in factors if 0 < factor < math.inf]
        return OfKind(
            kind,
            mine,
            tuple(layer for layer in self.born if layer in mine),
            tuple(layer for layer in self.erased if layer in mine),
            statistics.geometric_mean(known) if known else None,
        )

    def _rise(self, layer: int) -> float:
        return self.layers[layer].here - (self.layers[layer - 1].here if layer else 0.0)


def _listed(layers: tuple[int, ...]) -> str:
    return ", ".join(map(str, layers))


def _counted(kinds: tuple[str, ...]) -> str:
    """Kinds in order, neighbours of one kind together: `3 linear_attention, 1 conv`."""
    runs: list[tuple[str, int]] = []
    for kind in kinds:
        if runs and runs[-1][0] == kind:
            runs[-1] = kind, runs[-1][1] + 1
        else:
            runs.append((kind, 1))
    return ", ".join(f"{number} {kind}" for kind, number in runs)
