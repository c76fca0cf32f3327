"""What a report is made of, whatever it is written as: sections of paragraphs, tables, charts and texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from superweights.record import Score

Cell = str | float | int | None


@dataclass(frozen=True)
class Paragraph:
    """Plain words. `strong` ones are a verdict."""

    text: str
    """The words."""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under `columns`; numbers are set right. `caption` says what they are, and in which unit."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    """Each as long as `columns`."""


@dataclass(frozen=True)
class Series:
    """One line of a chart: a value for each x (None: a gap), and the ends of its error band where there is one.

    `points` draws marks without a line; `dashed` is for controls and references.
    """

    name: str
    """What stands in the legend."""
    values: tuple[float | None, ...]
    """One for each x."""
    low: tuple[float | None, ...] = ()
    """Lower ends of the band; empty: there is none."""
    high: tuple[float | None, ...] = ()
    """Upper ends of the band."""
    points: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Series over a common x. `says` is what a person who cannot see it needs to know."""

    title: str
    """What stands above."""
    says: str
    x_title: str
    """What x counts."""
    y_title: str
    """What y counts, with its unit."""
    x: tuple[float, ...]
    """The places of the values."""
    series: tuple[Series, ...]
    """The lines."""
    log: bool = False
    """Whether y is drawn by its logarithm."""

    def table(self) -> Table:
        """Its data."""
        columns, rows = [self.x_title], [[x] for x in self.x]
        for one in self.series:
            columns.append(one.name)
            for row, value in zip(rows, one.values, strict=True):
                row.append(value)  # type: ignore[arg-type]
            if one.low:
                columns += [f"{one.name}, low", f"{one.name}, high"]
                for row, low, high in zip(rows, one.low, one.high, strict=True):
                    row += [low, high]  # type: ignore[list-item]
        return Table(f"{self.title} ({self.y_title})", tuple(columns), tuple(map(tuple, rows)))


@dataclass(frozen=True)
class Spot:
    """Something at a layer and a height, sized by `weight` (0 to 1)."""

    layer: int
    height: float
    weight: float
    kind: str
    """Decides its colour."""
    label: str
    """What a pointer over it reads."""


@dataclass(frozen=True)
class LayerMap:
    """Where things stand in a model: layers from left to right, heights from 0 to 1 (output channels) upwards."""

    title: str
    """What stands above."""
    says: str
    """What a person who cannot see it needs to know."""
    layers: int
    height_title: str
    """What heights count."""
    spots: tuple[Spot, ...]
    """What stands in it."""


@dataclass(frozen=True)
class Beside:
    """One text as the model writes it, and as it writes it after a change."""

    prompt: str
    """What was continued."""
    names: tuple[str, str]
    """What stands above either text."""
    texts: tuple[str, str]
    """As it is, and after the change."""


@dataclass(frozen=True)
class Reel:
    """One picture that changes: its name, and a grey image for each frame, as rows of bytes (0 white, 255 full)."""

    name: str
    images: tuple[tuple[bytes, ...], ...]
    """One for each frame."""


@dataclass(frozen=True)
class Film:
    """Reels that run together, a caption for each frame. `says` is what a person who cannot see it needs to know."""

    title: str
    """What stands above."""
    says: str
    captions: tuple[str, ...]
    """One for each frame."""
    reels: tuple[Reel, ...]
    """What is shown."""


Block = Paragraph | Table | Chart | LayerMap | Beside | Film


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    """The heading."""
    blocks: tuple[Block, ...] = field(default_factory=tuple)
    """What stands under it."""


def joined_x(parts: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """All x of several series, once each, in order."""
    return tuple(sorted({x for part in parts for x in part}))


def over(x: Sequence[float], points: dict[float, float | None]) -> tuple[float | None, ...]:
    """The values of `points` at each of `x`; None where there is none."""
    return tuple(points.get(each) for each in x)


def number(score: Score | None) -> float | None:
    """The value of `score`; None where there is none, or none that can be drawn."""
    return score.value if score is not None and math.isfinite(score.value) else None


def pair(score: Score | None) -> tuple[float | None, float | None]:
    """Its value and its standard error."""
    return number(score), None if score is None else score.standard_error
