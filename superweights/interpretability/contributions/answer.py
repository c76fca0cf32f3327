"""What `superweights anatomy contributions` answers."""

from __future__ import annotations

from dataclasses import dataclass

from superweights.interpretability.answer import Sheet
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score

MEASURES = ("attention", "value norm", "Kobayashi norm", "contribution, head", "contribution, layer")


@dataclass(frozen=True)
class Contributions:
    """What token 0 is to the others by five measures, and what all tokens are to the last query.

    `first_token[measure]` is its share for each of `layers`, mean over queries from `first` on, heads and
    rows. `opposing`: the sum of all negative contributions of a row, in layer space. `error`: the largest
    distance of any row's contributions from 1. `norm_by_mass`: the norm of a head's output over that head's
    mean, for queries that put 0 to 0.1, 0.1 to 0.2, ... of their weight on token 0 (nan: no such query), with
    `queries_by_mass` of them.
    """

    rows: int
    tokens: int
    first: int
    layers: tuple[int, ...]
    first_token: dict[str, tuple[float, ...]]
    opposing: tuple[float, ...]
    error: float
    norm_by_mass: tuple[float, ...]
    queries_by_mass: tuple[int, ...]
    summary: tuple[Score, ...]
    """The few numbers that sum it up."""

    def scores(self) -> tuple[Score, ...]:
        return self.summary

    def sheets(self) -> tuple[Sheet, ...]:
        rows = [
            (layer, *(self.first_token[name][n] for name in MEASURES), self.opposing[n])
            for n, layer in enumerate(self.layers)
        ]
        bins = [
            (f"{n / 10:.1f} to {(n + 1) / 10:.1f}", norm, count)
            for n, (norm, count) in enumerate(zip(self.norm_by_mass, self.queries_by_mass, strict=True))
        ]
        return (
            Sheet(
                "What token 0 is to later tokens",
                ("layer", *MEASURES, "opposing"),
                rows,
                f"queries from {self.first} on; contributions of a row sum to 1 (largest error {self.error:.1e})",
            ),
            Sheet(
                "How large a head's output is, by how much of its weight is on token 0",
                ("weight on token 0", "output norm over the head's mean", "queries"),
                bins,
            ),
        )

    def panels(self) -> tuple[Panel, ...]:
        lines = [
            Series(name, tuple(zip(self.layers, values, strict=True)))
            for name, values in self.first_token.items()
        ]
        curve = Series(
            "output norm over the head's mean", [((n + 0.5) / 10, v) for n, v in enumerate(self.norm_by_mass)]
        )
        return (
            line_chart("What token 0 is to later tokens", "layer", "share", lines),
            line_chart("Heads that sink write little", "weight on token 0", "", [curve]),
        )
