"""What `superweights anatomy relations` answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from superweights.interpretability.answer import Sheet
from superweights.interpretability.words_of import number
from superweights.picture import Panel, Series, heat_map, line_chart
from superweights.record import Score


@dataclass(frozen=True)
class Unit:
    """One output of a linear layer: its average precision, the sign with which it ranks, and the distance of the means
    of positives and negatives in standard deviations, by which ties are ordered."""

    path: str
    """The layer's module."""
    unit: int
    """Which of its outputs."""
    precision: float
    sign: int
    margin: float
    """The distance of the means, in standard deviations."""


@dataclass(frozen=True)
class RelationUnits:
    """One relation: how many of its prompts the model completes, how many served to find units (`detection`, all of
    them completed) and to judge them (`evaluation`, completed or not); the best units.

    `perfect` units have an average precision of 1, `perfect_by_chance` have it on average with the labels dealt out at
    random; `threshold` is the average precision of the last unit of the largest set, `above_by_chance` how many units
    reach it with random labels. `by_layer`: units of the largest set in each layer.
    """

    name: str
    """The relation."""
    completed: Score
    detection: int
    evaluation: int
    perfect: int
    perfect_by_chance: float
    threshold: float
    above_by_chance: float
    best: tuple[Unit, ...]
    by_layer: tuple[int, ...]


@dataclass(frozen=True)
class Zeroed:
    """Accuracy on every relation's evaluation prompts with `count` units at 0: a relation's best, or random ones.

    `drops` are (accuracy before - after) / before, None where it was 0; below 0 is interference: the model does better
    without them. `spiking` of these units have outputs above 100 and 30 times the median of their layer's: zeroing one
    breaks the model whatever it stands for; random sets hold none.
    """

    units: str
    count: int
    spiking: int
    accuracies: tuple[Score, ...]
    """On each relation, in the order of `relations`."""
    drops: tuple[float | None, ...]


@dataclass(frozen=True)
class Cumulativity:
    """Of the prompts that a relation's first `fewer` units leave right and its first `more` make wrong (`total`), the
    share that zeroing only those between leaves right: 1 is wholly cumulative, None where `total` is 0."""

    relation: str
    fewer: int
    more: int
    total: int
    value: float | None
    """The share."""


@dataclass(frozen=True)
class Controls:
    """What zeroing a relation's units (`count`) does elsewhere: accuracy in other words before and after (None: no
    other template), the rise of the loss on neutral sentences with the objects (None: none given), and on prose."""

    relation: str
    count: int
    reworded_before: Score | None
    """Accuracy in other words, nothing zeroed."""
    reworded_after: Score | None
    """The same with the units zeroed."""
    neutral: Score | None
    prose: Score


@dataclass(frozen=True)
class RelationNeurons:
    """Expert units of relations, what zeroing them costs, and the controls. `units`: how many there are in all."""

    units: int
    pool: str
    """How tokens are pooled where units are ranked."""
    sign: str
    """Which sign of a unit may rank."""
    relations: tuple[RelationUnits, ...]
    """One for each relation that is known well enough."""
    base: tuple[Score, ...]
    """Accuracy on each relation with nothing zeroed."""
    zeroed: tuple[Zeroed, ...]
    """Accuracy with each relation's units zeroed, and random ones."""
    cumulativity: tuple[Cumulativity, ...]
    """For each relation and pair of counts."""
    overlaps: tuple[tuple[str, str, int, int], ...]
    """Two relations, how many units of each are looked at, how many of these they share."""
    controls: tuple[Controls, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The relations' names, in the order of all tuples here."""
        return tuple(each.name for each in self.relations)

    def drop(self, zeroed: str, evaluated: str, count: int) -> float | None:
        """The relative drop on `evaluated` with the `count` best units of `zeroed` at 0."""
        row = next(each for each in self.zeroed if (each.units, each.count) == (zeroed, count))
        return row.drops[self.names.index(evaluated)]

    def scores(self) -> tuple[Score, ...]:
        found = list(self.base)
        for count in sorted({each.count for each in self.zeroed}):
            own = [self.drop(name, name, count) for name in self.names]
            others = [self.drop(a, b, count) for a in self.names for b in self.names if a != b]
            random = [
                d for each in self.zeroed if self._is_random(each) and each.count == count for d in each.drops
            ]
            for what, values in (("own", own), ("other relations'", others), ("random", random)):
                known = [value for value in values if value is not None]
                if known:
                    name = f"drop by {what} {count} units, mean"
                    found.append(Score(name, sum(known) / len(known), "of accuracy", len(known)))
        return tuple(found)

    def sheets(self) -> tuple[Sheet, ...]:
        found = Sheet(
            "relations",
            ("relation", "completed", "detection", "evaluation", "units with AP 1", "by chance", "AP of the last",
             "as good by chance", "best unit", "its AP"),
            [
                (e.name, number(e.completed), e.detection, e.evaluation, e.perfect, e.perfect_by_chance, e.threshold,
                 e.above_by_chance, f"{e.best[0].path}[{e.best[0].unit}]", e.best[0].precision)
                for e in self.relations
            ],
            f"{self.units:,} units (outputs of the MLPs' linear layers), pooled by {self.pool}, sign {self.sign}.",
        )  # fmt: skip
        return (found, self._matrix(), self._further(), self._controls())

    def _matrix(self) -> Sheet:
        columns = ["units at 0", "number", "spiking", *(f"accuracy, {name}" for name in self.names), "drops"]
        rows: list[list[Any]] = [["none", 0, 0, *map(number, self.base), ""]]
        for each in self.zeroed:
            drops = " ".join("-" if drop is None else f"{drop:+.2f}" for drop in each.drops)
            rows.append([each.units, each.count, each.spiking, *map(number, each.accuracies), drops])
        note = "drops: (before - after) / before, relation by relation; below 0 the model does better without them."
        return Sheet("accuracy on prompts that found no unit", columns, rows, note)

    def _further(self) -> Sheet:
        rows: list[list[Any]] = [
            [f"cumulativity, {e.relation}", f"{e.fewer} to {e.more}", e.total, e.value]
            for e in self.cumulativity
        ]
        rows += [
            [f"shared, {a} and {b}", f"first {count}", None, shared] for a, b, count, shared in self.overlaps
        ]
        return Sheet(
            "cumulativity and shared units",
            ("measure", "units", "prompts", "value"),
            rows,
            "cumulativity: of the prompts lost from the fewer units to the more, the share that the units between do "
            "not lose alone.",
        )

    def _controls(self) -> Sheet:
        def cell(score: Score | None) -> str | None:
            return None if score is None else number(score)

        rows = [
            (
                e.relation,
                e.count,
                cell(e.reworded_before),
                cell(e.reworded_after),
                cell(e.neutral),
                cell(e.prose),
            )
            for e in self.controls
        ]
        titles = (
            "units at 0",
            "number",
            "reworded, before",
            "after",
            "loss on neutral sentences",
            "loss on prose",
        )
        return Sheet("elsewhere", titles, rows, "Rises of the loss in nats per token, paired.")

    def panels(self) -> tuple[Panel, ...]:
        counts = sorted({each.count for each in self.zeroed})
        largest = [
            [self.drop(zeroed, evaluated, counts[-1]) for zeroed in self.names] for evaluated in self.names
        ]
        curves = []
        for name in self.names:
            points = [(count, self.drop(name, name, count)) for count in counts]
            curves.append(Series(name, [(0, 0.0), *((n, d) for n, d in points if d is not None)]))
        for each in sorted({e.units for e in self.zeroed if self._is_random(e)}):
            points = [
                (e.count, sum(known) / len(known))
                for e in self.zeroed
                if e.units == each and (known := [d for d in e.drops if d is not None])
            ]
            curves.append(Series(each, [(0, 0.0), *points], dashed=True))
        where = [Series.over_layers(e.name, [float(n) for n in e.by_layer]) for e in self.relations]
        return (
            line_chart("what a relation loses without its units", "units at 0", "drop", curves),
            heat_map(
                f"drops by {counts[-1]} units: {', '.join(self.names)}", "units of", "evaluated on", largest
            ),
            line_chart("where the units are", "layer", "units", where),
        )

    def _is_random(self, each: Zeroed) -> bool:
        return each.units not in self.names
