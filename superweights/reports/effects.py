"""Sections from records of `superweights score`, `ablate` and `scale`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweights.record import Record
from superweights.reports.blocks import Beside, Block, Chart, Series, Table, joined_x, over
from superweights.reports.naming import model_of


def curves(records: Sequence[Record]) -> list[Block]:
    """Perplexity against the factor, for records whose rows scale the same weights by several factors."""
    lines: list[tuple[str, dict[float, dict[str, Any]]]] = []
    for record in records:
        groups: dict[tuple[str, ...], dict[float, dict[str, Any]]] = {}
        for row in _rows(record):
            factors = {edit.get("factor") for edit in row.get("edits", ())}
            drawn = (row.get("perplexity") or {}).get("value") is not None
            if len(factors) == 1 and None not in factors and drawn:
                weights = tuple(edit["address"] for edit in row["edits"])
                groups.setdefault(weights, {})[float(next(iter(factors)))] = row["perplexity"]  # type: ignore[arg-type]
        for weights, points in groups.items():
            if len(points) > 2:
                base = (record.findings.get("base") or {}).get("perplexity") or {}
                known = base.get("value") is not None
                lines.append((_named(record, weights), {**points, **({1.0: base} if known else {})}))
    if not lines:
        return []
    x = joined_x([list(points) for _, points in lines])
    series = tuple(_banded(name, x, points) for name, points in lines)
    says = (
        "Perplexity against the factor on the weights; 1 is the model as it is. Bands are one standard error."
    )
    return [Chart("Scaling", says, "factor", "perplexity", x, series, log=True)]


def edits(records: Sequence[Record]) -> list[Block]:
    """A table for each record."""
    columns = (
        "edit",
        "perplexity",
        "error",
        "loss, nats",
        "error of loss",
        "KL, nats",
        "same top",
        "bits per byte",
    )
    blocks: list[Block] = []
    for record in records:
        base = record.findings.get("base") or {}
        rows = [
            (
                "as it is",
                *_pair(base.get("perplexity")),
                None,
                None,
                None,
                None,
                _value(base.get("bits_per_byte")),
            )
        ]
        for row in _rows(record):
            changed = ", ".join(f"{edit['address']} x {edit.get('factor')}" for edit in row.get("edits", ()))
            rows.append(
                (
                    f"{row.get('name', '')}: {changed}",
                    *_pair(row.get("perplexity")),
                    *_pair(row.get("loss")),
                    _value(row.get("kl")),
                    _value(row.get("agreement")),
                    _value(row.get("bits_per_byte")),
                )
            )
        said = record.findings.get("conditions") or {}
        caption = (
            f"{model_of(record)}: {said.get('windows')} windows of "
            f"{said.get('window')} tokens of {said.get('text')}"
        )
        blocks.append(Table(caption, columns, tuple(rows)))
    return blocks


def texts(records: Sequence[Record]) -> list[Block]:
    """Continuations before and after."""
    return [
        Beside(each["prompt"], ("as it is", str(each.get("name", "edited"))), (each["base"], each["other"]))
        for record in records
        for each in record.findings.get("continuations") or ()
    ]


def shifts(records: Sequence[Record]) -> list[Block]:
    """Tokens that gain and lose the most probability."""
    blocks: list[Block] = []
    for record in records:
        for shift in record.findings.get("shift") or ():
            for kind in ("gained", "lost", "leading"):
                rows = tuple(
                    (repr(each["text"])[1:-1], each["base"], each["other"], each.get("ratio"))
                    for each in shift.get(kind) or ()
                )
                if rows:
                    caption = f"{shift.get('name')}: tokens {kind}; mean over {shift.get('prompts')} prompts"
                    blocks.append(Table(caption, ("token", "before", "after", "times"), rows))
    return blocks


def _banded(name: str, x: Sequence[float], points: dict[float, dict[str, Any]]) -> Series:
    values = {at: score["value"] for at, score in points.items()}
    errors = {at: score.get("standard_error") or 0.0 for at, score in points.items()}
    low = {at: max(value - errors[at], value / 10) for at, value in values.items()}
    high = {at: value + errors[at] for at, value in values.items()}
    return Series(name, over(x, dict(values)), over(x, dict(low)), over(x, dict(high)))


def _rows(record: Record) -> list[dict[str, Any]]:
    return list(record.findings.get("rows") or ())


def _named(record: Record, weights: Sequence[str]) -> str:
    return f"{model_of(record)}: {weights[0]}" + (f" and {len(weights) - 1} more" if len(weights) > 1 else "")


def _pair(score: dict[str, Any] | None) -> tuple[float | None, float | None]:
    return (None, None) if score is None else (score.get("value"), score.get("standard_error"))


def _value(score: dict[str, Any] | None) -> float | None:
    return None if score is None else score.get("value")
