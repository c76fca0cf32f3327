"""Numbers to pixels, and the round numbers that are written beside an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's colours, which people of all kinds of colour vision can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GRID = "#e4e4e4"


@dataclass(frozen=True)
class Axis:
    """Numbers to pixels between two ends, on a line or by their logarithm."""

    low: float
    """The number at `start`."""
    high: float
    """The number at `stop`."""
    start: float
    """The pixel of `low`."""
    stop: float
    """The pixel of `high`."""
    log: bool = False
    """Whether numbers lie by their logarithm."""
    whole: bool = False
    """Whether there are no ticks between whole numbers."""

    def at(self, value: float) -> float:
        """The pixel of `value`; numbers beyond an end stand at it."""
        see: Callable[[float], float] = math.log if self.log else float
        low, high = see(self.low), see(self.high)
        share = (see(min(max(value, self.low), self.high)) - low) / ((high - low) or 1.0)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round numbers between the ends."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1,) if len(powers) > 4 else (1, 2, 5)
            ticks = [step * 10.0**power for power in powers for step in steps]
        else:
            step = max(round_step((self.high - self.low) / 5), float(self.whole))
            ticks = [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [tick for tick in ticks if self.low <= tick <= self.high]


def axis_of(
    values: Sequence[float], start: float, stop: float, log: bool = False, whole: bool = False
) -> Axis:
    """An axis with a little room beyond all of `values` (above zero where it is logarithmic)."""
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.05, high * 1.05, start, stop, True)
    margin = 0.04 * ((high - low) or abs(high) or 1.0)
    return Axis(low - margin, high + margin, start, stop, whole=whole)


def frame(x: Axis, y: Axis, x_title: str) -> str:
    """The grid of a panel and the numbers beside it; `y` starts at the panel's bottom and stops at its top."""
    middle = (x.start + x.stop) / 2
    parts = [ticks_below(x, y.stop, y.start), text(middle, y.start + 32, x_title, anchor="middle")]
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<path d="M{x.start} {at:.1f}H{x.stop}" stroke="{GRID}"/>')
        parts.append(text(x.start - 6, at + 4, f"{tick + 0.0:,.4g}", anchor="end"))
    return "".join(parts)


def ticks_below(x: Axis, top: float, bottom: float) -> str:
    """The vertical lines of a panel, their numbers below."""
    parts = []
    for tick in x.ticks():
        at = x.at(tick)
        parts.append(f'<path d="M{at:.1f} {top}V{bottom}" stroke="{GRID}"/>')
        parts.append(text(at, bottom + 15, f"{tick + 0.0:,.4g}", anchor="middle"))
    return "".join(parts)


def text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    """Words at a place."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
    )


def round_step(rough: float) -> float:
    """The next of 1, 2, 5, 10, 20 ... that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
