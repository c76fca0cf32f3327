"""Sections from records of `superweights plan`, `quantize`, `audit` and `activations`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweights.findings import Activations, Planned, Quantized
from superweights.record import Record
from superweights.reports.blocks import Block, Chart, Paragraph, Series, Table, number, pair
from superweights.reports.naming import model_of

_ROUNDED = (
    "inputs rounded",
    "held out",
    "perplexity",
    "error",
    "loss, nats",
    "error of loss",
    "KL, nats",
    "same top",
)
_GAINED = ("input of", "scale", "held out", "error of the product", "with the large ones held out")


def plans(records: Sequence[Record]) -> list[Block]:
    """The frontier, and the matrices that cost the most."""
    blocks: list[Block] = []
    for record in records:
        found: Planned = record.findings
        steps = [step for step in found.frontier if step[1] > 0]
        if steps:
            x, y = zip(*steps, strict=True)
            says = f"Expected KL falls from {y[0]:.3g} to {y[-1]:.3g} nats between {x[0]:.2f} and {x[-1]:.2f} bits."
            line = Series("plans", tuple(y))
            blocks.append(
                Chart(
                    "Size against divergence",
                    says,
                    "bits per weight",
                    "KL, nats",
                    tuple(x),
                    (line,),
                    log=True,
                )
            )
        ranked = sorted(found.matrices, key=lambda each: -each.measured_kl)[:12]
        rows = tuple(
            (m.tensor, m.measured_kl, m.grid, m.bits_per_weight, ", ".join(m.super_weights)) for m in ranked
        )
        blocks.append(
            Table(
                "The most sensitive matrices",
                ("matrix", "KL alone", "grid", "bits", "super weights kept"),
                rows,
            )
        )
    return blocks


def quantized(records: Sequence[Record]) -> list[Block]:
    """Size, schemes, and what keeping each super weight changed."""
    blocks: list[Block] = []
    for record in records:
        found: Quantized = record.findings
        sizes = "; ".join(f"{score.name}: {score}" for score in record.scores)
        blocks.append(Paragraph(f"{found.format}: {'; '.join(found.schemes)}. {sizes}."))
        rows = tuple((each.address, each.before, each.said) for each in found.protected)
        if rows:
            blocks.append(
                Table("Weights kept exactly", ("weight", "value", "what rounding would have done"), rows)
            )
    return blocks


def audits(records: Sequence[Record]) -> list[Block]:
    """One paragraph and one table for each audit."""
    blocks: list[Block] = []
    for record in records:
        found = record.findings
        model, against = model_of(record), record.inputs.get("against")
        blocks.append(
            Paragraph(f"{model} ({found.get('method')}) against {against}: {found['verdict']}.", strong=True)
        )
        rows = tuple(
            (w["address"], w["before"], w["after"], w.get("steps"), w["matrix_error"], w["verdict"])
            for w in found.get("weights", ())
        )
        columns = ("super weight", "before", "after", "error, steps", "error of the matrix", "verdict")
        blocks.append(Table("Super weights", columns, rows))
        if found.get("activation_before") is not None:
            blocks.append(Table("The model as it runs", ("measure", "before", "after"), _run(found)))
    return blocks


def _run(found: dict[str, Any]) -> tuple[tuple[str, float | None, float | None], ...]:
    compared, sinks = (
        found.get("comparison") or {},
        (found.get("sink_before") or {}, found.get("sink_after") or {}),
    )
    return (
        (
            f"super activation after layer {found.get('layer')}, channel {found.get('channel')}",
            found["activation_before"],
            found["activation_after"],
        ),
        ("attention on the first token", sinks[0].get("value"), sinks[1].get("value")),
        ("perplexity", (compared.get("base") or {}).get("value"), (compared.get("other") or {}).get("value")),
        ("KL, nats per token", None, (compared.get("kl") or {}).get("value")),
    )


def activations(records: Sequence[Record]) -> list[Block]:
    """A row for each way of rounding, and the layers that gain most from holding inputs out."""
    blocks: list[Block] = []
    for record in records:
        found: Activations = record.findings
        rows = [("not at all", None, *pair(found.base), None, None, None, None)]
        rows += [
            (
                f"{row.scale}, {row.way}",
                row.held_share,
                *pair(row.perplexity),
                *pair(row.loss),
                number(row.kl),
                number(row.agreement),
            )
            for row in found.rows
        ]
        blocks.append(Table(model_of(record), _ROUNDED, tuple(rows)))
        gained = [
            (each.module, each.scale, each.share, each.error_plain, each.error_held) for each in found.layers
        ]
        if gained:
            blocks.append(Table("Layers that gain most", _GAINED, tuple(gained)))
    return blocks
