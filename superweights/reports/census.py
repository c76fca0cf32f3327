"""Sections from records of `superweights census`: its models, their weights, and what could not be entered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweights.findings.census import Census, Entered, loss_rise
from superweights.record import Record
from superweights.reports.blocks import Block, Cell, Chart, Paragraph, Series, Table
from superweights.wording import counted

# More lines in one chart cannot be told apart.
_MOST_STREAMS = 12
# What of a profile stands beside a model: the column's title, and the field.
_PROFILED = (
    ("weight on token 0", "mass"),
    ("rows with massive activations", "massive"),
    ("kurtosis of token 0", "kurtosis_channel_first"),
)


def entered(records: Sequence[Record]) -> list[Block]:
    """How many models there are of which verdict, and a row for each."""
    blocks: list[Block] = []
    for found in _found(records):
        blocks.append(Paragraph(summary(found), strong=True))
        if not found.models:
            continue
        titles = (
            "model",
            "type",
            "parameters",
            "layers",
            "verdict",
            "super weights",
            "costliest",
            "its cost",
            "loss",
        )
        caption = (
            "Cost: the rise of the loss without the weight. Weight on token 0: mean share of attention; massive: above "
            "100 and 1,000 medians; kurtosis: over the channels, Gaussian 3. Empty: unknown."
        )
        rows = tuple(_row(model) for model in found.models)
        blocks.append(Table(caption, (*titles, *(title for title, _ in _PROFILED)), rows))
        blocks += [
            Paragraph(f"{model.name} has no profile: {model.unprofiled}")
            for model in found.models
            if model.unprofiled
        ]
    return blocks


def lines_of_index(records: Sequence[Record]) -> list[Block]:
    """Every weight that was put to the proof, the costliest of all models first."""
    rows: list[tuple[Cell, ...]] = []
    for found in _found(records):
        for weight in sorted(found.weights, key=loss_rise, reverse=True):
            effect = weight.evidence.effects[0] if weight.evidence.effects else None
            cost = (None, None) if effect is None else (effect.value, effect.standard_error)
            spikes = weight.evidence.spike_in, weight.evidence.spike_out
            depth = _depth(weight.layer, weight.architecture.layers)
            rows.append((weight.model, str(weight), weight.verdict, *cost, weight.value, *spikes, depth))
    columns = ("model", "weight", "verdict", "cost", "error", "value", "spike in", "spike out", "depth")
    caption = "Each is a line of known.jsonl. Depth: its layer over the last one, from 0 to 1."
    return [Table(caption, columns, tuple(rows))] if rows else []


def streams(records: Sequence[Record]) -> list[Block]:
    """The largest residual value after each block, model by model."""
    blocks: list[Block] = []
    for found in _found(records):
        seen = [model for model in found.models if any(peak is not None for peak in model.peaks)]
        shown = sorted(seen, key=_peak, reverse=True)[:_MOST_STREAMS]
        if not shown:
            continue
        x = tuple(range(max(len(model.peaks) for model in shown)))
        series = tuple(Series(m.name, (*m.peaks, *[None] * (len(x) - len(m.peaks)))) for m in shown)
        says = "; ".join(f"{model.name}: up to {_peak(model):,.0f}" for model in shown)
        title = "Largest residual value, layer by layer"
        if len(shown) < len(seen):
            title += f" (the {len(shown)} largest of {counted(len(seen), 'model')})"
        blocks.append(Chart(title, says, "layer", "|value|", x, series, log=True))
    return blocks


def not_entered(records: Sequence[Record]) -> list[Block]:
    """What failed, with its sentence, and lines that stand for a model that was there already."""
    blocks: list[Block] = []
    for found in _found(records):
        failed = tuple((each.name, each.sentence, each.hint) for each in found.failed)
        twice = tuple((each.name, each.of) for each in found.duplicates)
        if failed:
            blocks.append(Table("Models that were not entered", ("model", "why", "hint"), failed))
        if twice:
            blocks.append(Table("Lines that were passed over", ("line", "the same model as"), twice))
    return blocks


def summary(found: Census) -> str:
    """How many models were entered, and of which verdicts they are."""
    held: dict[str, int] = {}
    for model in found.models:
        held[model.verdict] = held.get(model.verdict, 0) + 1
    verdicts = "".join(
        f"; {number} {verdict}" for verdict, number in sorted(held.items(), key=lambda each: -each[1])
    )
    listed = counted(found.conditions["listed"], "line")
    return f"{counted(len(found.models), 'model')} entered of {listed}{verdicts}."


def _row(model: Entered) -> tuple[Cell, ...]:
    worst = model.costliest
    numbers: tuple[Any, ...] = tuple((model.profile or {}).get(field) for _, field in _PROFILED)
    return (
        model.name,
        model.model_type,
        model.parameters,
        model.layers,
        model.verdict,
        len(model.super_weights),
        None if worst is None else str(worst),
        model.cost,
        None if model.loss is None else model.loss.value,
        *numbers,
    )


def _peak(model: Entered) -> float:
    return max((peak for peak in model.peaks if peak is not None), default=0.0)


def _depth(layer: int | None, layers: int | None) -> float | None:
    return None if layer is None or not layers or layers < 2 else layer / (layers - 1)


def _found(records: Sequence[Record]) -> list[Census]:
    return [record.findings for record in records]
