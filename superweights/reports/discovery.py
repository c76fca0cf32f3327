"""Sections from records of `superweights find`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from superweights.record import MATTERS, Control, Record
from superweights.reports.blocks import Block, Chart, LayerMap, Paragraph, Series, Spot, Table, joined_x, over
from superweights.reports.naming import model_of

# From here on a number is written with its exponent.
_LONG = 1e9
_WORDS = {
    "critical": "falls without a single weight",
    "joint": "falls without a few weights together, none of which it needs alone",
    "undecided": "has spikes, and the text did not tell whether their weights matter",
    "partial": "loses something without some weights, and no single one holds it up",
    "benign": "has spikes, and loses little without any of their weights",
    "none": "has no super weight that this search can see",
}


def verdicts(records: Sequence[Record]) -> list[Block]:
    """One sentence for each model."""
    blocks: list[Block] = []
    for record in records:
        found = record.findings
        critical = [c for c in found.get("candidates", ()) if c.get("verdict") == "critical"]
        sentence = f"{model_of(record)} {_WORDS.get(found.get('verdict') or 'none', 'was searched')}."
        if critical:
            worst = max(critical, key=_loss)
            sentence += (
                f" Without {worst['address']} = {worst['value']:.4g} the loss rises by {_loss(worst):.2f} "
                f"{_unit(worst['effect'])}{_times(worst['effect'])}."
            )
        blocks.append(Paragraph(sentence, strong=True))
        blocks += [Paragraph(_group(group)) for group in found.get("groups", ())]
        blocks += [Paragraph(_expert(expert)) for expert in found.get("experts", ())]
        joint = found.get("joint")
        if joint and joint.get("value") is not None:
            blocks.append(
                Paragraph(
                    f"Without the {len(found.get('removed', ()))} strongest together it rises by "
                    f"{joint['value']:.2f} ± {joint.get('standard_error') or 0:.2g} {_unit(joint)}{_times(joint)}."
                )
            )
        blocks += [Paragraph(str(note)) for note in found.get("notes", ())]
    return blocks


def _unit(score: dict[str, Any]) -> str:
    """The unit of a loss, in words."""
    return "of 1 - cosine" if score.get("unit") == "1 - cosine" else "nats per token"


def _times(score: dict[str, Any]) -> str:
    """What becomes of perplexity, where the model predicts."""
    if score.get("unit") == "1 - cosine":
        return ""
    times = math.exp(min(score["value"], 700))
    return f": perplexity is {times:{',.1f' if times < _LONG else '.1e'}} times as high"


def _group(group: dict[str, Any]) -> str:
    """What a group costs, in a sentence."""
    rise = group["effect"]["value"]
    cost = (
        "the model gives no number"
        if rise is None
        else f"the loss rises by {rise:.2f} {_unit(group['effect'])}"
    )
    if group["kind"] == "backup":
        return f"{group['name']}: where the first is gone, without the second {cost} more."
    return f"Without {', '.join(group['members'])} together {cost}."


def _expert(expert: dict[str, Any]) -> str:
    """What an expert costs, in a sentence."""
    rise = (expert.get("effect") or {}).get("value")
    cost = "" if rise is None else f"; without it the loss rises by {rise:.2f} nats per token"
    largest = max(expert["routed"], expert["forced"])
    return (
        f"Expert {expert['expert']} of layer {expert['layer']} puts out {largest:,.0f}, "
        f"{expert['ratio']:,.0f} times the median expert's{cost}: {expert['verdict']}."
    )


def layer_map(records: Sequence[Record]) -> list[Block]:
    """Candidates by layer and output channel."""
    blocks: list[Block] = []
    for record in records:
        candidates = [c for c in _candidates(record) if c.get("out_channel") is not None]
        if not candidates:
            continue
        layers = (
            max(
                [c["layer"] for c in candidates]
                + [each["layer"] for each in record.findings.get("layers", ())]
            )
            + 1
        )
        top = max(c["out_channel"] for c in candidates) or 1
        most = max(max(map(_loss, candidates)), 1e-9)
        spots = tuple(
            Spot(
                c["layer"],
                c["out_channel"] / (top * 1.05),
                max(_loss(c), 0.0) / most,
                c.get("verdict") or "unproven",
                f"{c['address']} = {c['value']:.4g}: {c.get('verdict') or 'unproven'}, {_loss(c):+.3f} nats",
            )
            for c in candidates
        )
        says = "; ".join(spot.label for spot in spots if spot.kind in MATTERS) or "no weight matters"
        blocks.append(LayerMap(model_of(record), says, layers, f"output channel, 0 to {top}", spots))
    return blocks


def weights(records: Sequence[Record]) -> list[Block]:
    """All candidates, the costliest first."""
    columns = (
        "weight",
        "verdict",
        "loss",
        "error",
        "controls",
        "beside",
        "value",
        "spike in",
        "spike out",
        "share",
        "role",
    )
    blocks: list[Block] = []
    for record in records:
        rows = tuple(
            (
                c["address"],
                c.get("verdict"),
                _value(c.get("effect")),
                (c.get("effect") or {}).get("standard_error"),
                _control(c),
                _value(c.get("effect_with_others")),
                c["value"],
                c.get("spike_in"),
                c.get("spike_out"),
                c.get("dominance"),
                c.get("role"),
            )
            for c in sorted(_candidates(record), key=_loss, reverse=True)
        )
        caption = (
            f"{model_of(record)}. Loss: its rise without the weight, nats per token. Controls: the same for "
            "weights that should not matter, the largest. Beside: when the strongest other is gone already. Share: of "
            "the output that this one product makes."
        )
        blocks.append(Table(caption, columns, rows))
    return blocks


def spikes(records: Sequence[Record]) -> list[Block]:
    """Inputs and outputs of the candidates' products, the largest of each layer."""
    parts: list[tuple[str, dict[float, float | None]]] = []
    for record in records:
        for key, name in (("spike_in", "input"), ("spike_out", "output")):
            largest: dict[float, float | None] = {}
            for c in _candidates(record):
                if c.get(key) is not None:
                    largest[c["layer"]] = max(abs(c[key]), largest.get(c["layer"]) or 0.0)
            if largest:
                parts.append((_label(records, record, name), largest))
    if not parts:
        return []
    x = joined_x([list(points) for _, points in parts])
    series = tuple(Series(name, over(x, points), points=True) for name, points in parts)
    says = "Largest input and output of a candidate's product in each layer that has one, on a logarithmic scale."
    return [Chart("Spikes of the candidates", says, "layer", "largest |value|", x, series, log=True)]


def journey(records: Sequence[Record]) -> list[Block]:
    """The largest residual value after each block."""
    parts: list[tuple[str, dict[float, float | None]]] = []
    said = []
    for record in records:
        layers = record.findings.get("layers", ())
        if not layers:
            continue
        parts.append(
            (_label(records, record, "largest value"), {each["layer"]: each["peak"] for each in layers})
        )
        medians = {each["layer"]: each["peak"] / each["ratio"] for each in layers if each.get("ratio")}
        parts.append((_label(records, record, "median"), dict(medians)))
        steps = {
            phase: [e["layer"] for e in layers if e.get("phase") == phase]
            for phase in ("step_up", "step_down")
        }
        top = max(layers, key=lambda each: each["peak"])
        said.append(
            f"{model_of(record)}: up in {_listed(steps['step_up'])}, down in {_listed(steps['step_down'])}; largest "
            f"{top['peak']:,.0f} after layer {top['layer']}, channel {top['channel']}."
        )
    if not parts:
        return []
    x = joined_x([list(points) for _, points in parts])
    series = tuple(Series(name, over(x, points), dashed=name.endswith("median")) for name, points in parts)
    chart = Chart("Residual stream, layer by layer", " ".join(said), "layer", "|value|", x, series, log=True)
    return [Paragraph(" ".join(said)), chart]


def _candidates(record: Record) -> list[dict[str, Any]]:
    return [c for c in record.findings.get("candidates", ()) if c.get("layer") is not None]


def _loss(candidate: dict[str, Any]) -> float:
    return (candidate.get("effect") or {}).get("value") or 0.0


def _control(candidate: dict[str, Any]) -> float | None:
    """The control that cost most, of those that could acquit the weight."""
    controls = map(Control.from_json, candidate.get("controls") or ())
    judging = [each.score.value for each in controls if each.judges and math.isfinite(each.score.value)]
    return max(judging, default=None)


def _value(score: dict[str, Any] | None) -> float | None:
    return None if score is None else score.get("value")


def _listed(layers: Sequence[int]) -> str:
    return (
        ("layer " if len(layers) == 1 else "layers ") + ", ".join(map(str, layers)) if layers else "no layer"
    )


def _label(records: Sequence[Record], record: Record, name: str) -> str:
    return name if len(records) == 1 else f"{model_of(record)}, {name}"
