"""Lines over numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from superweights.picture.axis import COLOURS, Axis, axis_of, frame, text
from superweights.picture.page import WIDTH, Panel

_LEFT, _RIGHT, _TOP, _HEIGHT, _ROW = 70, 30, 30, 260, 18


@dataclass(frozen=True)
class Series:
    """One line: its name, its points `(x, y)`, and half the length of each point's error bar, where known.

    Points whose y is None or not finite are gaps. `dashed` is for controls and references.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    errors: Sequence[float | None] = ()
    """One for each point; empty: none is known."""
    dashed: bool = False

    @classmethod
    def over_layers(cls, name: str, values: Sequence[float | None], dashed: bool = False) -> Series:
        """One number for each layer, counted from 0."""
        return cls(name, tuple(enumerate(values)), dashed=dashed)


def line_chart(
    title: str,
    x_title: str,
    y_title: str,
    series: Sequence[Series],
    *,
    log: bool = False,
    log_x: bool = False,
    marks: Mapping[float, str] | None = None,
    width: float = WIDTH,
) -> Panel:
    """One panel of lines with its legend below. `log` makes the y axis logarithmic: only numbers above zero
    are drawn. `marks` are vertical lines with a word at their head. `width` is the page's, in pixels.

    Without a single number to draw, the panel says so.
    """
    drawn = [(one, _visible(one, log)) for one in series]
    xs = [x for _, places in drawn for x, _, _ in places]
    if not xs:
        return Panel(text(_LEFT, 18, f"{title}: nothing to draw", weight="bold"), 30)
    bottom = _TOP + _HEIGHT
    counted = all(each.is_integer() for each in xs)  # layers are: there is nothing at 0.5
    x = axis_of([*xs, *(marks or ())], _LEFT, width - _RIGHT, log_x, counted)
    ends = [end for _, places in drawn for _, y, error in places for end in (y - error, y + error)]
    y = axis_of([end for end in ends if end > 0] if log else ends, bottom, _TOP, log)
    parts = [
        text(_LEFT, 18, f"{title} ({y_title})" if y_title else title, weight="bold"),
        frame(x, y, x_title),
    ]
    parts += [_mark(x.at(at), word, bottom) for at, word in (marks or {}).items()]
    for number, (one, places) in enumerate(drawn):
        colour, at = COLOURS[number % len(COLOURS)], bottom + 54 + number * _ROW
        parts.append(_line(one, places, x, y, colour))
        parts.append(f'<circle cx="{_LEFT + 5}" cy="{at - 4}" r="4" fill="{colour}"/>')
        parts.append(text(_LEFT + 16, at, one.name))
    return Panel("".join(parts), bottom + 46 + len(series) * _ROW)


def _visible(series: Series, log: bool) -> list[tuple[float, float, float]]:
    """x, y and error of each point that can be drawn."""
    found = []
    for number, (x, y) in enumerate(series.points):
        if y is None or not math.isfinite(y) or (log and y <= 0):
            continue
        error = series.errors[number] if number < len(series.errors) else None
        found.append((float(x), float(y), error if error is not None and math.isfinite(error) else 0.0))
    return found


def _line(series: Series, places: Sequence[tuple[float, float, float]], x: Axis, y: Axis, colour: str) -> str:
    line = " ".join(f"{x.at(at):.1f},{y.at(value):.1f}" for at, value, _ in places)
    dash = ' stroke-dasharray="5 4"' if series.dashed else ""
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>']
    for at, value, error in places:
        if error:
            low, high = (y.at(end) for end in (value - error, value + error))
            parts.append(f'<path d="M{x.at(at):.1f} {low:.1f}V{high:.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{x.at(at):.1f}" cy="{y.at(value):.1f}" r="2.5" fill="{colour}"/>')
    return "".join(parts)


def _mark(at: float, word: str, bottom: float) -> str:
    line = f'<path d="M{at:.1f} {_TOP}V{bottom}" stroke="#888" stroke-dasharray="2 3"/>'
    return line + text(at + 3, _TOP + 11, word)
