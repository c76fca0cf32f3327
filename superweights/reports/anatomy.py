"""Sections from records of `superweights anatomy`: whatever an answer says layer by layer, as lines over layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from superweights.findings import Anatomy
from superweights.record import Record, plain
from superweights.reports.blocks import Block, Chart, Series, joined_x, over
from superweights.reports.naming import model_of

_MOST = 6


def answers(records: Sequence[Record]) -> list[Block]:
    """A chart for each question whose answer has numbers over layers."""
    lines: dict[str, list[tuple[str, dict[float, float | None]]]] = {}
    for record in records:
        model = model_of(record)
        found: Anatomy = record.findings
        for question, answer in found.answers.items():
            for name, points in _over_layers(plain(answer)):
                label = name if len(records) == 1 else f"{model}, {name}"
                lines.setdefault(question, []).append((label.replace("_", " "), points))
    blocks: list[Block] = []
    for question, drawn in lines.items():
        kept = drawn[:_MOST]
        x = joined_x([list(points) for _, points in kept])
        series = tuple(Series(name, over(x, points)) for name, points in kept)
        numbers = [abs(v) for one in series for v in one.values if v]
        wide = (
            bool(numbers)
            and max(numbers) > 300 * min(numbers)
            and all(v is None or v >= 0 for s in series for v in s.values)
        )
        says = f"{question}: {', '.join(one.name for one in series)} over {len(x)} layers."
        blocks.append(Chart(f"Anatomy: {question}", says, "layer", question, x, series, log=wide))
    return blocks


def _over_layers(answer: Any) -> Iterator[tuple[str, dict[float, float | None]]]:
    """Names and values by layer: of parallel lists beside `layers`, or of rows that name their layer."""
    layers = answer.get("layers") if isinstance(answer, dict) else None
    if not isinstance(layers, list) or not layers:
        return
    if all(_is_layer(each) for each in layers):
        for name, values in answer.items():
            fits = isinstance(values, list) and len(values) == len(layers) and name != "layers"
            if fits and all(isinstance(v, int | float) or v is None for v in values):
                yield name, dict(zip(map(float, layers), values, strict=True))
    elif all(isinstance(each, dict) and _is_layer(each.get("layer")) for each in layers):
        for name in layers[0]:
            values = [each.get(name) for each in layers]
            if name != "layer" and all(isinstance(v, float) or v is None for v in values):
                yield name, {float(each["layer"]): each.get(name) for each in layers}


def _is_layer(value: Any) -> bool:
    """Whether a value counts layers: a line is drawn through as many points as it says."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000
