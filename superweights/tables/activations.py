"""What `activations` found: rounded inputs of linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from superweights.tables.numbers import bos_words, cut_words, plain, share, with_error
from superweights.tables.page import Parts, Table, dim, table

if TYPE_CHECKING:
    from superweights.findings import Activations, HeldInput, RoundedLayer
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """The table, the layers that gain most, and the conditions."""
    found: Activations = record.findings
    rows = table("inputs rounded", "perplexity", "KL, nats", "same top", "held out")
    rows.add_row("not at all", with_error(found.base), "", "", "")
    for row in found.rows:
        scores = with_error(row.perplexity), with_error(row.kl), share(row.agreement.value)
        rows.add_row(f"{row.scale}, {row.way}", *scores, f"{row.held_share:z.2%}" if row.held_share else "")
    yield rows
    if found.layers:
        yield _layers(found.layers)
    held = found.conditions
    yield dim(
        f"{cut_words(held['windows'], held['window'])}, {bos_words(held)}, {held['dtype']} on "
        f"{held['device']}; {plain(held['text'])}, SHA-256 {held['text_sha256'][:12]}; static limits and "
        f"SmoothQuant from {plain(held['calibrated_on'])}. Errors are standard errors over windows."
    )


def _layers(layers: Sequence[RoundedLayer]) -> Table:
    rows = table("input of", "scale", "largest (token, channel)", "error", "held")
    for layer in layers:
        largest = _placed(layer.examples[0]) if layer.examples else ""
        errors = f"{layer.error_plain:z.1%}", f"{layer.error_held:z.2%}"
        rows.add_row(plain(layer.module), layer.scale, largest, *errors)
    return rows


def _placed(held: HeldInput) -> str:
    return f"{held.value:z,.4g} ({held.place.position}, {held.place.channel})"
