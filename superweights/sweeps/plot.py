"""The results as a picture: plain SVG, without a library."""

from __future__ import annotations

from collections.abc import Sequence

from superweights.picture.axis import COLOURS, Axis, axis_of, frame, text, ticks_below
from superweights.record import Score
from superweights.sweeps.outcomes import Outcome

_WIDTH, _LEFT, _RIGHT, _CURVE_HEIGHT, _ROW = 860, 70, 30, 260, 20
_WIDEST_LABEL = 62


def draw(outcomes: Sequence[Outcome]) -> str:
    """A standalone SVG: for each model its curves (perplexity over factor or count) and the loss without each
    set of weights. Bars are 95 % intervals; a dashed line is the model as it is. Failed cells are left out."""
    drawn: list[tuple[str, int]] = []
    for fingerprint in dict.fromkeys(outcome.fingerprint for outcome in outcomes):
        own = [o for o in outcomes if o.fingerprint == fingerprint and o.perplexity is not None]
        base = next((o.perplexity for o in own if o.point.grid == "base"), None)
        for grid, title, axis in _CURVES:
            curves = [o for o in own if o.point.grid == grid and o.point.x is not None]
            if curves:
                drawn.append(_curves(f"{curves[0].model}: {title}", axis, curves, base, grid == "controls"))
        bars = [o for o in own if o.point.x is None and o.loss is not None]
        if bars:
            drawn.append(
                _dots(f"{bars[0].model}: rise of the loss without these weights, nats per token", bars)
            )
    parts, top = [], 10
    for body, height in drawn:
        parts.append(f'<g transform="translate(0 {top})">{body}</g>')
        top += height + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )


_CURVES = (
    ("scale", "perplexity with weights scaled", "factor"),
    ("controls", "perplexity without other weights", "weights removed"),
)


def _curves(
    title: str, x_title: str, outcomes: Sequence[Outcome], base: Score | None, log_x: bool
) -> tuple[str, int]:
    """One panel of curves with its legend: the picture, and its height."""
    series: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        series.setdefault(outcome.point.series, []).append(outcome)
    bottom = 30 + _CURVE_HEIGHT
    scores = [o.perplexity for o in outcomes if o.perplexity] + ([base] if base else [])
    x = axis_of([o.point.x or 0.0 for o in outcomes], _LEFT, _WIDTH - _RIGHT, log_x)
    values = [end for score in scores for end in _interval(score)]
    y = axis_of(values, bottom, 30, max(values) > 5 * min(values))
    parts = [_label(_LEFT, 18, title, weight="bold"), frame(x, y, x_title)]
    if base is not None:
        at = y.at(base.value)
        parts.append(
            f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#888" stroke-dasharray="5 4" fill="none"/>'
        )
    for i, (name, points) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        parts.append(_curve(points, x, y, colour))
        at = bottom + 52 + i * _ROW
        parts.append(f'<circle cx="{_LEFT + 5}" cy="{at - 4}" r="4" fill="{colour}"/>')
        parts.append(_label(_LEFT + 16, at, name))
    return "".join(parts), bottom + 46 + len(series) * _ROW


def _curve(points: Sequence[Outcome], x: Axis, y: Axis, colour: str) -> str:
    places = [(x.at(o.point.x or 0.0), o.perplexity) for o in points if o.perplexity]
    places.sort(key=lambda place: place[0])
    line = " ".join(f"{at:.1f},{y.at(score.value):.1f}" for at, score in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    for at, score in places:
        low, high = (y.at(end) for end in _interval(score))
        parts.append(f'<path d="M{at:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-opacity="0.5"/>')
        parts.append(f'<circle cx="{at:.1f}" cy="{y.at(score.value):.1f}" r="3" fill="{colour}"/>')
    return "".join(parts)


def _dots(title: str, outcomes: Sequence[Outcome]) -> tuple[str, int]:
    """A row for each set of weights: the loss rise with its interval, and for sets the sum of the single rises."""
    start = 430
    ends = [end for o in outcomes if o.loss for end in o.loss.interval()]
    x = axis_of([0.0, *ends], start, _WIDTH - _RIGHT, log=False)
    labels = [outcome.point.series.replace(" and ", "\nand ").split("\n") for outcome in outcomes]
    bottom = 30 + _ROW * sum(map(len, labels))
    parts = [_label(10, 18, title, weight="bold"), ticks_below(x, 30, bottom)]
    at = 44 - _ROW
    for outcome, lines in zip(outcomes, labels, strict=True):
        score = outcome.loss
        assert score is not None
        for line in lines:
            at += _ROW
            parts.append(_label(10, at, line))
        low, high = (x.at(end) for end in score.interval())
        parts.append(f'<path d="M{low:.1f} {at - 4}H{high:.1f}" stroke="{COLOURS[0]}" stroke-opacity="0.5"/>')
        parts.append(f'<circle cx="{x.at(score.value):.1f}" cy="{at - 4}" r="4" fill="{COLOURS[0]}"/>')
        if outcome.beyond_sum is not None:
            alone = x.at(score.value - outcome.beyond_sum.value)
            parts.append(f'<circle cx="{alone:.1f}" cy="{at - 4}" r="4" fill="none" stroke="{COLOURS[1]}"/>')
    if any(outcome.beyond_sum for outcome in outcomes):
        parts.append(f'<circle cx="15" cy="{bottom + 26}" r="4" fill="none" stroke="{COLOURS[1]}"/>')
        parts.append(_label(26, bottom + 30, "the sum of what each costs alone"))
    return "".join(parts), bottom + 40


def _label(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    """Words at a place, cut where they are too long to stand beside a curve."""
    if len(words) > _WIDEST_LABEL and weight == "normal":
        words = f"{words[: _WIDEST_LABEL - 1]}…"
    return text(x, y, words, anchor, weight)


def _interval(score: Score) -> tuple[float, float]:
    """The interval of a perplexity, which is above zero."""
    low, high = score.interval()
    return max(low, score.value / 10), high
