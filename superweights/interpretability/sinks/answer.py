"""What `superweights anatomy sinks` answers."""

from __future__ import annotations

from dataclasses import dataclass

from superweights.interpretability.answer import Sheet
from superweights.picture import Panel, Series, heat_map, line_chart
from superweights.record import Score

_DORMANT = 0.3


@dataclass(frozen=True, order=True)
class Head:
    """A head, and a number of it."""

    layer: int
    """Counted from 0."""
    head: int
    value: float
    """The number."""


@dataclass(frozen=True)
class Sinks:
    """The first token as a sink, layer by layer (`layers`: those that attend). See the file `sinks` for each
    number's phenomenon and source; shares between 0 and 1, means over rows.

    `own`: weight on the query's own token; `spare`: weight that the last query puts on no token (a learned
    sink). `drain`, `key_pull`, `quietest` are None where the model's attention hides values, keys or head
    outputs. `head_mass [layers][H]` is each head's mean weight on token 0 (the score AWFT); `quietest` has every
    head with its AHON(LN), smallest first. `other_rate` is the largest sink rate of any position from 1 to T/2,
    and `other_position` that position.
    """

    rows: int
    tokens: int
    """Tokens of each row."""
    eps: float
    """The weight above which a head's first token is a sink."""
    layers: tuple[int, ...]
    sink_rate: tuple[float, ...]
    """The share of heads whose mean weight on token 0 is above `eps`."""
    argmax_share: tuple[float, ...]
    """The share of (head, query) pairs whose largest weight is on token 0."""
    mass: tuple[float, ...]
    """The mean weight on token 0."""
    own: tuple[float, ...]
    spare: tuple[float, ...]
    drain: tuple[float, ...] | None
    key_pull: tuple[float, ...] | None
    head_mass: tuple[tuple[float, ...], ...]
    quietest: tuple[Head, ...] | None
    other_rate: float
    other_position: int
    summary: tuple[Score, ...]
    """The few numbers that sum it up."""

    @property
    def dormant(self) -> tuple[Head, ...]:
        """Heads whose output norm is below 0.3 of the others' in their layer."""
        return tuple(head for head in self.quietest or () if head.value < _DORMANT)

    def scores(self) -> tuple[Score, ...]:
        return self.summary

    def sheets(self) -> tuple[Sheet, ...]:
        columns = (
            "layer", "heads that sink", "largest weight there", "weight there", "value norm", "key pull",
        )  # fmt: skip
        rows = [
            (layer, self.sink_rate[n], self.argmax_share[n], self.mass[n],
             self.drain[n] if self.drain else None, self.key_pull[n] if self.key_pull else None)
            for n, layer in enumerate(self.layers)
        ]  # fmt: skip
        quiet = ""
        if self.quietest:
            least = self.quietest[0]
            quiet = (
                f"; {len(self.dormant)} dormant heads (output norm below {_DORMANT:g} of the layer's others; the "
                f"quietest is head {least.head} of layer {least.layer} with {least.value:.2f})"
            )
        note = (
            f"heads that sink: mean weight on token 0 above {self.eps:g}; at any other position at most "
            f"{self.other_rate:.3f} (position {self.other_position}); value norm: of token 0 over the others{quiet}"
        )
        return (Sheet("The first token as a sink", columns, rows, note),)

    def panels(self) -> tuple[Panel, ...]:
        named = {
            f"heads whose weight on token 0 is above {self.eps:g}": self.sink_rate,
            "mean weight on token 0": self.mass,
            "norm of its value over the others'": self.drain or (),
        }
        lines = [
            Series(name, tuple(zip(self.layers, values, strict=True)))
            for name, values in named.items()
            if values
        ]
        return (
            line_chart("The first token as a sink", "layer", "", lines),
            heat_map("Weight on token 0", "head", "layer that attends", self.head_mass, low=0, high=1),
        )
