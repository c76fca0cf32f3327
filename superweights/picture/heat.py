"""Heat maps: a number in each cell of a grid, shown as a shade."""

from __future__ import annotations

import math
from collections.abc import Sequence

from superweights.picture.axis import Axis, text
from superweights.picture.page import WIDTH, Panel

_LEFT, _RIGHT, _TOP, _TALLEST = 70, 90, 30, 22
# From white over blue to black, and from white over orange for numbers below zero.
_ABOVE, _BELOW = (0, 68, 136), (187, 85, 0)


def heat_map(
    title: str,
    x_title: str,
    y_title: str,
    values: Sequence[Sequence[float | None]],
    *,
    low: float | None = None,
    high: float | None = None,
) -> Panel:
    """`values[row][column]` as shades, row 0 on top, with the scale at the right. None and nan stay empty.

    White is zero; numbers below it are orange. `low` and `high` bound the shades, by default the data.
    """
    numbers = [v for row in values for v in row if v is not None and math.isfinite(v)]
    if not numbers:
        return Panel(text(_LEFT, 18, f"{title}: nothing to draw", weight="bold"), 30)
    low = min(0.0, min(numbers)) if low is None else low
    high = max(0.0, max(numbers)) if high is None else high
    columns = max(map(len, values))
    wide = (WIDTH - _LEFT - _RIGHT) / columns
    tall = min(_TALLEST, max(4.0, 400 / len(values)))
    bottom = _TOP + tall * len(values)
    parts = [text(_LEFT, 18, title, weight="bold")]
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value is None or not math.isfinite(value):
                continue
            parts.append(
                f'<rect x="{_LEFT + column * wide:.1f}" y="{_TOP + row * tall:.1f}" width="{wide + 0.3:.1f}" '
                f'height="{tall + 0.3:.1f}" fill="{_shade(value, low, high)}"/>'
            )
    for row in range(0, len(values), max(1, len(values) // 10)):
        parts.append(text(_LEFT - 6, _TOP + (row + 0.5) * tall + 4, str(row), anchor="end"))
    for column in range(0, columns, max(1, columns // 16)):
        parts.append(text(_LEFT + (column + 0.5) * wide, bottom + 15, str(column), anchor="middle"))
    parts.append(text(_LEFT, bottom + 32, f"right: {x_title}; down: {y_title}"))
    parts.append(_scale(low, high, bottom))
    return Panel("".join(parts), bottom + 36)


def _scale(low: float, high: float, bottom: float) -> str:
    """The shades with their numbers, at the right."""
    left, height = WIDTH - _RIGHT + 20, max(bottom - _TOP, 60)
    axis = Axis(low, high if high > low else low + 1, _TOP + height, _TOP)
    parts = []
    for step in range(24):
        value = axis.low + (axis.high - axis.low) * (step + 0.5) / 24
        parts.append(
            f'<rect x="{left}" y="{axis.at(value) - height / 48:.1f}" width="12" height="{height / 24 + 0.3:.1f}" '
            f'fill="{_shade(value, low, high)}"/>'
        )
    for tick in axis.ticks():
        parts.append(text(left + 16, axis.at(tick) + 4, f"{tick:,.3g}"))
    return "".join(parts)


def _shade(value: float, low: float, high: float) -> str:
    bound, colour = (high, _ABOVE) if value >= 0 else (-low, _BELOW)
    share = min(abs(value) / bound, 1.0) if bound > 0 else 0.0
    red, green, blue = (round(255 + share * (part - 255)) for part in colour)
    return f"#{red:02x}{green:02x}{blue:02x}"
