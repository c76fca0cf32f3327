"""What `prune` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from superweights.tables.numbers import plain
from superweights.tables.page import Parts, ruled

if TYPE_CHECKING:
    from superweights.findings import Pruned
    from superweights.record import Record, Score


def parts(record: Record) -> Parts:
    """What each choice costs, which sub-layers carry something, and what was written."""
    found: Pruned = record.findings
    table = ruled("dropped", "perplexity", "loss, nats/token")
    table.add_row("nothing", _number(record.scores[0]), "")
    for said, each in [("", found.effect), *(("at random: ", each) for each in found.controls)]:
        table.add_row(f"{said}{each.dropped}", _number(each.perplexity), _number(each.loss_change))
    yield table
    for each in found.carriers:
        verb = "[bold red]dropped[/]" if each.dropped else "kept"
        yield f"{verb}: {each.kind} of layer {each.layer}, which {plain(each.reason)}"
    if found.written is None:
        yield "nothing was written: give --to FOLDER."
        return
    yield _written(found.written)
    if not found.dropped["blocks"]:
        yield "transformers reads it after import superweights."


def _written(written: dict[str, Any]) -> str:
    share = written["nbytes"] / written["whole_nbytes"]
    return (
        f"[bold]{plain(written['folder'])}[/]: {written['nbytes'] / 1e6:z,.1f} MB, {share:z.3f} of the whole "
        f"model's; read back, its logits differ by {written['difference']:z.1g} of the largest from those of the "
        "original without the same layers."
    )


def _number(score: Score) -> str:
    """The number and its error, without the unit that stands above."""
    return str(score).removesuffix(score.unit).rstrip()
