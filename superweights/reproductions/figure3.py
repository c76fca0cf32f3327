"""Figure 3: the largest input and output of every down-projection, layer by layer, on one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.address import Address
from superweights.discovery.mlps import find_mlps
from superweights.errors import SuperweightsError
from superweights.findings.reproduction import Column, Plot, Reproduction
from superweights.reproductions.subject import Subject
from superweights.subject import layout_of
from superweights.watch import Product, watching

# What the authors' script calls a spike, in inputs and outputs alike.
_SPIKE = 50.0


@dataclass(frozen=True)
class Extreme:
    """A value of largest magnitude, with its sign; the channel it is in, and the token's position (None: unknown)."""

    value: float
    channel: int
    position: int | None


def run(subject: Subject) -> Reproduction:
    """The experiment. Source: arXiv 2411.07191, section 3.1 and Figure 3.

    We differ: a layer with several down-projections (experts) shows the largest of them all, and the
    computation is not in float16.
    """
    ids = subject.prompt_ids()
    found = down_projection_extremes(subject, ids)
    published = subject.published("figure3")
    tokens = [subject.tokenizer.decode([token]) for token in ids[0].tolist()]
    rows = [_row(layer, found[layer], tokens, published.figures) for layer in sorted(found)]
    return Reproduction(
        experiment="figure3",
        title="Figure 3: largest input and output of every down-projection",
        columns=(
            Column("layer", "layer", "label"),
            Column("input", "input"),
            Column("neuron", "neuron"),
            Column("input_token", "at token"),
            Column("published_input", published.model, "published"),
            Column("output", "output"),
            Column("channel", "channel"),
            Column("output_token", "at token"),
            Column("published_output", published.model, "published"),
        ),
        rows=tuple(rows),
        published=published,
        chosen=subject.chosen.how,
        sentences=tuple(_sentences(rows, published.same_model)),
        conditions=subject.conditions() | {"prompt": subject.setting.prompt, "tokens": tokens},
        plot=Plot("layer", ("input", "output"), "largest value"),
    )


def down_projection_extremes(subject: Subject, ids: Tensor) -> dict[int, tuple[Extreme, Extreme]]:
    """The largest input and output of the down-projections of each layer, on `ids [1, tokens]`."""
    layers = _down_projections(subject)
    found: dict[int, tuple[Extreme, Extreme]] = {}

    def see(product: Product) -> None:
        layer = layers.get(product.parameter)
        if layer is None or product.kind != "weight":
            return
        new = _extreme(product.x, product.shape), _extreme(product.y, product.shape)
        old = found.get(layer, new)
        found[layer] = tuple(max(pair, key=lambda e: abs(e.value)) for pair in zip(old, new, strict=True))  # type: ignore[assignment]

    with torch.no_grad(), watching(subject.model, see):
        subject.model(ids)
    return found


def _down_projections(subject: Subject) -> dict[str, int]:
    """The parameters that hold down-projections, and their layers. Of several experts one leads to all."""
    mlps, _ = find_mlps(subject.checkpoint)
    layout, layers, done = layout_of(subject.model), {}, set()
    for mlp in mlps:
        kind = mlp.layer, tuple(part for part in mlp.down.split(".") if not part.isdigit())
        if mlp.layer is None or kind in done:
            continue
        done.add(kind)
        zeros = (0,) * len(subject.checkpoint.tensors[mlp.down].shape)
        layers[layout.parameter_of(Address(mlp.down, zeros))[0]] = mlp.layer
    if not layers:
        raise SuperweightsError(
            f"No feed-forward block was recognised in {subject.checkpoint.name}.",
            hint="superweights find looks at every product, whatever its place.",
        )
    return layers


def _extreme(values: Tensor, shape: tuple[int, ...] | None) -> Extreme:
    row, channel = divmod(int(values.abs().argmax()), values.shape[1])
    return Extreme(float(values[row, channel]), channel, row if shape is not None else None)


def _row(layer: int, found: tuple[Extreme, Extreme], tokens: list[str], published: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": layer}
    for side, place, extreme in zip(("input", "output"), ("neuron", "channel"), found, strict=True):
        known = published[side]
        at = extreme.position
        row |= {side: extreme.value, place: extreme.channel, f"{side}_position": at}
        row[f"{side}_token"] = None if at is None else tokens[at]
        row[f"published_{side}"] = known[layer] if layer < len(known) else None
    return row


def _sentences(rows: list[dict[str, Any]], same_model: bool) -> list[str]:
    spikes = [row for row in rows if min(abs(row["input"]), abs(row["output"])) > _SPIKE]
    pairs = ", ".join(f"layer {r['layer']} [{r['channel']}, {r['neuron']}]" for r in spikes)
    said = [f"Input and output both pass {_SPIKE:g}, the authors' mark, in: {pairs or 'no layer'}."]
    if any(row["input_position"] != row["output_position"] for row in spikes):
        said.append("Where the two stand at different tokens they make no pair.")
    if same_model:
        close = sum(_close(r["input"], r["published_input"]) + _close(r["output"], r["published_output"])
                    for r in rows)  # fmt: skip
        said.append(f"Within 5 % of the published value: {close} of {2 * len(rows)}.")
    return said


def _close(ours: float, published: float | None) -> bool:
    return published is not None and abs(ours - published) <= 0.05 * abs(published)
