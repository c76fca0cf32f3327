"""A plain picture of an experiment's rows: lines over numbers, bars over names. SVG, written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from superweights.errors import SuperweightsError
from superweights.findings.reproduction import Plot, Reproduction
from superweights.record import Score

_WIDTH, _HEIGHT, _LEFT, _BELOW, _ABOVE, _RIGHT = 720, 380, 64, 44, 34, 150
# Colours that stay apart for colour-blind readers (Okabe and Ito 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw(result: Reproduction) -> str:
    """The SVG of `result`, as text. Raises `SuperweightsError` for an experiment without a picture."""
    if result.plot is None:
        raise SuperweightsError(f"{result.experiment} has no picture.", hint="leave out --svg.")
    rows = [
        row for row in result.rows if any(_number(row.get(line)) is not None for line in result.plot.lines)
    ]
    axes = _Axes(result.plot, rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-weight="bold">{escape(result.title)}</text>',
        *axes.frame(),
    ]
    for line, colour in zip(result.plot.lines, _COLOURS, strict=False):
        parts += axes.line(line, colour)
    headings = {column.key: column.heading for column in result.columns}
    for number, (line, colour) in enumerate(zip(result.plot.lines, _COLOURS, strict=False)):
        y = _ABOVE + 14 + 18 * number
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 12}" y="{y}" fill="{colour}">{escape(headings.get(line, line))}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axes:
    """Where the rows' numbers fall on the page."""

    def __init__(self, plot: Plot, rows: Sequence[dict[str, Any]]):
        self._plot, self._rows = plot, rows
        xs = [row[plot.x] for row in rows]
        self._named = any(isinstance(x, str) for x in xs)
        self._xs = list(range(len(rows))) if self._named else [float(x) for x in xs]
        values = [v for row in rows for line in plot.lines if (v := _number(row.get(line))) is not None]
        if plot.logarithmic:
            values = [v for v in values if v > 0]
        if not values:
            raise SuperweightsError("There is nothing to draw.", hint="leave out --svg.")
        self._low, self._high = self._bounds(min(values), max(values))

    def frame(self) -> list[str]:
        bottom, right = _HEIGHT - _BELOW, _WIDTH - _RIGHT
        parts = [f'<path d="M{_LEFT} {_ABOVE}V{bottom}H{right}" fill="none" stroke="#444"/>']
        for value in self._ticks():
            y = self._y(value)
            parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,.4g}</text>')
        step = max(1, len(self._rows) // 16)
        for i in range(0, len(self._rows), step):
            told = escape(repr(self._rows[i][self._plot.x]) if self._named else f"{self._xs[i]:g}")
            parts.append(
                f'<text x="{self._x(i):.1f}" y="{bottom + 16}" text-anchor="middle" font-size="10">{told}</text>'
            )
        middle = (_LEFT + right) / 2
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{self._plot.x}</text>')
        parts.append(f'<text x="{right + 12}" y="{bottom}" fill="#444">{escape(self._plot.y)}</text>')
        return parts

    def line(self, key: str, colour: str) -> list[str]:
        """One line with a dot at each value, and a bar for its error where it has one."""
        points, parts = [], []
        for i, row in enumerate(self._rows):
            value = _number(row.get(key))
            if value is None or (self._plot.logarithmic and value <= 0):
                continue
            x, y = self._x(i), self._y(value)
            points.append(f"{x:.1f},{y:.1f}")
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')
            error = getattr(row.get(key), "standard_error", None)
            if error:
                ends = (self._y(min(value + error, self._high)), self._y(max(value - error, self._low)))
                parts.append(f'<path d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}" stroke="{colour}"/>')
        dash = ' stroke-dasharray="2 4"' if self._named else ""
        return [
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"{dash}/>',
            *parts,
        ]

    def _bounds(self, low: float, high: float) -> tuple[float, float]:
        if self._plot.logarithmic:
            return 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high) + 1e-9)
        low, high = min(low, 0.0), max(high, 0.0)
        return (low, high) if low < high else (low - 1, high + 1)

    def _ticks(self) -> list[float]:
        if self._plot.logarithmic:
            low, high = round(math.log10(self._low)), round(math.log10(self._high))
            return [10.0**e for e in range(low, high + 1, max(1, (high - low) // 6))]
        step = 10 ** math.floor(math.log10((self._high - self._low) / 2))
        step *= next(m for m in (1, 2, 5, 10) if (self._high - self._low) / (step * m) <= 7)
        first = math.ceil(self._low / step)
        return [step * i for i in range(first, math.floor(self._high / step) + 1)]

    def _x(self, i: int) -> float:
        low, high = min(self._xs), max(self._xs)
        return _LEFT + (self._xs[i] - low) / ((high - low) or 1) * (_WIDTH - _RIGHT - _LEFT)

    def _y(self, value: float) -> float:
        low, high, at = self._low, self._high, value
        if self._plot.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return _HEIGHT - _BELOW - (at - low) / (high - low) * (_HEIGHT - _BELOW - _ABOVE)


def _number(value: Any) -> float | None:
    number = value.value if isinstance(value, Score) else value
    return number if isinstance(number, int | float) and math.isfinite(number) else None
