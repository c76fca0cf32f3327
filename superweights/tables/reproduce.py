"""What `reproduce` found, beside the published figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from superweights.record import Score
from superweights.tables.numbers import bos_words, cut_words, measured, plain
from superweights.tables.page import Parts, Table, dim
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.findings import Reproduction
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """The rows, ours and the paper's; the weights; what it shows, on what, and where the paper says so."""
    found: Reproduction = record.findings
    told = found.published
    model = found.conditions.get("name") or "the embedded model"
    yield f"[bold]{plain(found.title)}[/], {plain(str(model))}"
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in found.columns:
        style = "dim" if column.whose == "published" else None
        side = "left" if column.whose == "label" else "right"
        table.add_column(plain(column.heading), justify=side, style=style, no_wrap=True)
    for row in found.rows:
        table.add_row(*(plain(cell(row.get(column.key))) for column in found.columns))
    yield table
    yield from (dim(plain(_weight(weight))) for weight in found.weights)
    lines = [*found.sentences, *(f"note: {note}" for note in found.notes), *_conditions(found)]
    if not told.same_model:
        lines.append(
            f"The paper has no figures for this model; those of {told.model} stand beside for orientation."
        )
    lines.append(f"Published: {told.source}; {told.protocol}.")
    lines += [f"known error: {error}" for error in told.errors]
    yield from map(Text, lines)


def cell(value: Any) -> str:
    """One value as a person reads it: scores with errors, intervals, tokens in quotes; None is empty."""
    if value is None:
        return ""
    if isinstance(value, Score):
        return measured(value)
    if isinstance(value, tuple):
        return f"{value[0]:z.2g} to {value[1]:z.2g}"
    if isinstance(value, float):
        return f"{value:z,.0f}" if abs(value) >= 1000 else f"{value:z.4g}"
    told = str(value)
    return told if told.isprintable() and told == told.strip() else repr(told)


def _weight(weight: dict[str, Any]) -> str:
    spikes = ""
    if weight["spike_in"] is not None:
        spikes = f", {weight['spike_in']:z.4g} in, {weight['spike_out']:z.4g} out on the prompt"
    return f"super weight {weight['address']} = {weight['value']:z.5g}{spikes}"


def _conditions(found: Reproduction) -> list[str]:
    held = found.conditions
    lines = [f"Super weights: {found.chosen}."] if found.weights else []
    if "window" in held:
        lines.append(
            f"Text: {cut_words(held['windows'], held['window'])} {bos_words(held)} of {held['text']}, "
            f"SHA-256 {held['text_sha256'][:12]}; {counted(held['passages'], 'passage')}; "
            f"{held['dtype']} on {held['device']}. Errors are standard errors."
        )
    else:
        lines.append(f"Prompt: {held['prompt']!r}; {held['dtype']} on {held['device']}.")
    return lines
