"""Pictures made of letters, for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def columns(values: Sequence[float], top: float, height: int = 3, width: int = 60) -> list[str]:
    """Upright bars, one for each of `values` from 0 to `top`, in `height` lines; the topmost line first.

    More values than `width` are drawn as means of neighbours. What is above `top` is drawn as `top`.
    """
    drawn = _thinned(values, width)
    steps = [round(8 * height * min(max(value / top, 0.0), 1.0)) if top > 0 else 0 for value in drawn]
    return [
        "".join(_EIGHTHS[min(max(step - 8 * below, 0), 8)] for step in steps)
        for below in reversed(range(height))
    ]


def _thinned(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    cuts = [round(n * len(values) / width) for n in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
