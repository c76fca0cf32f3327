"""Sections from records of `superweights score`, `ablate` and `scale`."""

from __future__ import annotations

from collections.abc import Sequence

from superweights.findings import EffectRow, Effects
from superweights.record import Record, Score
from superweights.reports.blocks import Beside, Block, Chart, Series, Table, joined_x, number, over, pair
from superweights.reports.naming import model_of
from superweights.wording import counted

_COLUMNS = (
    "edit",
    "perplexity",
    "error",
    "loss, nats",
    "error of loss",
    "KL, nats",
    "same top",
    "bits per byte",
)


def curves(records: Sequence[Record]) -> list[Block]:
    """Perplexity against the factor, for records whose rows scale the same weights by several factors."""
    lines: list[tuple[str, dict[float, Score]]] = []
    for record in records:
        found: Effects = record.findings
        for weights, points in _by_weights(found.rows).items():
            if len(points) > 2:
                base = {1.0: found.base.perplexity} if found.base.perplexity is not None else {}
                lines.append((_named(record, weights), points | base))
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
    blocks: list[Block] = []
    for record in records:
        found: Effects = record.findings
        base = found.base
        rows = [
            ("as it is", *pair(base.perplexity), None, None, None, None, number(base.bits_per_byte)),
            *map(_row, found.rows),
        ]
        said = found.conditions
        caption = (
            f"{model_of(record)}: {counted(said.get('windows', 0), 'window')} of "
            f"{counted(said.get('window', 0), 'token')} of {said.get('text')}"
        )
        blocks.append(Table(caption, _COLUMNS, tuple(rows)))
    return blocks


def texts(records: Sequence[Record]) -> list[Block]:
    """Continuations before and after."""
    return [
        Beside(each.prompt, ("as it is", each.name or "edited"), (each.base, each.other))
        for record in records
        for each in record.findings.continuations or ()
    ]


def shifts(records: Sequence[Record]) -> list[Block]:
    """Tokens that gain and lose the most probability."""
    blocks: list[Block] = []
    for shift in (shift for record in records for shift in record.findings.shift or ()):
        for kind, tokens in (("gained", shift.gained), ("lost", shift.lost), ("leading", shift.leading)):
            rows = tuple((repr(each.text)[1:-1], each.base, each.other, each.ratio) for each in tokens)
            if rows:
                caption = f"{shift.name}: tokens {kind}; mean over {counted(shift.prompts, 'prompt')}"
                blocks.append(Table(caption, ("token", "before", "after", "times"), rows))
    return blocks


def _by_weights(rows: Sequence[EffectRow]) -> dict[tuple[str, ...], dict[float, Score]]:
    """The perplexity by factor (of models that predict), of each set of weights that a row multiplies by one factor."""
    groups: dict[tuple[str, ...], dict[float, Score]] = {}
    for row in rows:
        factors = {edit.factor for edit in row.edits}
        factor = next(iter(factors)) if len(factors) == 1 else None
        if factor is not None and row.perplexity is not None:
            groups.setdefault(tuple(edit.address for edit in row.edits), {})[float(factor)] = row.perplexity
    return groups


def _row(row: EffectRow) -> tuple[str | float | None, ...]:
    changed = ", ".join(f"{edit.address} x {edit.factor}" for edit in row.edits)
    rest = number(row.kl), number(row.agreement), number(row.bits_per_byte)
    return f"{row.name}: {changed}", *pair(row.perplexity), *pair(row.loss), *rest


def _banded(name: str, x: Sequence[float], points: dict[float, Score]) -> Series:
    values = {at: value for at, score in points.items() if (value := number(score)) is not None}
    errors = {at: points[at].standard_error or 0.0 for at in values}
    low = {at: max(value - errors[at], value / 10) for at, value in values.items()}
    high = {at: value + errors[at] for at, value in values.items()}
    return Series(name, over(x, dict(values)), over(x, dict(low)), over(x, dict(high)))


def _named(record: Record, weights: Sequence[str]) -> str:
    return f"{model_of(record)}: {weights[0]}" + (f" and {len(weights) - 1} more" if len(weights) > 1 else "")
