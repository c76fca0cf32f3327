"""The section from records of `superweights prune`."""

from __future__ import annotations

from collections.abc import Sequence

from superweights.findings import DropTold, Pruned
from superweights.record import Record
from superweights.reports.blocks import Block, Paragraph, Table, pair
from superweights.reports.naming import model_of

_COLUMNS = ("dropped", "perplexity", "error", "loss, nats", "error of loss")


def pruned(records: Sequence[Record]) -> list[Block]:
    """What was dropped and what that costs, beside random choices of as many; what carries something."""
    blocks: list[Block] = []
    for record in records:
        found: Pruned = record.findings
        base = next((score for score in record.scores if score.name == found.effect.perplexity.name), None)
        rows = [
            ("nothing", *pair(base), None, None),
            _row("", found.effect),
            *(_row("at random: ", each) for each in found.controls),
        ]
        caption = f"{model_of(record)}: chosen on one half of the windows, judged on the other"
        blocks.append(Table(caption, _COLUMNS, tuple(rows)))
        for each in found.carriers:
            fate = "Dropped all the same" if each.dropped else "Kept"
            blocks.append(Paragraph(f"{fate}: the {each.kind} of layer {each.layer}, which {each.reason}."))
    return blocks


def _row(said: str, each: DropTold) -> tuple[str | float | None, ...]:
    return f"{said}{each.dropped}", *pair(each.perplexity), *pair(each.loss_change)
