"""What `audit` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from superweights.tables.numbers import plain
from superweights.tables.page import Parts, ruled

if TYPE_CHECKING:
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """What became of each super weight, then of the super activation, sinks and predictions; the verdict last."""
    found = record.findings
    table = ruled("super weight", "before", "after", "steps", "matrix error", "verdict", words=("verdict",))
    for fate in found.weights:
        steps = "" if fate.steps is None else f"{fate.steps:+z.2f}"
        numbers = f"{fate.before:z.4g}", f"{fate.after:z.4g}", steps, f"{fate.matrix_error:z.1%}"
        table.add_row(plain(str(fate.address)), *numbers, fate.verdict)
    yield table if found.weights else "There is no super weight to follow: predictions alone are judged."
    for fate in found.weights:
        if fate.expert is not None:
            beside = f"{fate.matrix_error:z.1%}, the others of its layer {fate.others_error:z.1%} (median)"
            yield f"{plain(str(fate.address))}: expert {fate.expert}, error of its matrix {beside}"
    if found.activation_before is not None and found.activation_after is not None and found.comparison:
        yield from _compared(found)
    yield f"{plain(str(record.inputs['name']))} ({found.method}): [bold]{found.verdict}[/]"


def _compared(found: Any) -> Parts:
    ratio = found.activation_after / found.activation_before
    yield (
        f"super activation (after block {found.layer}, channel {found.channel}): {found.activation_before:z,.0f} "
        f"before, {found.activation_after:z,.0f} after ({ratio:z.2f} times)"
    )
    yield f"attention on the first token: {found.sink_before} before, {found.sink_after} after"
    compared = found.comparison
    yield _predictions(compared)
    yield "Weights as the checkpoint has them, in the original's model in float32: what kernels round is not in it."


def _predictions(compared: Any) -> str:
    """What both models say of the text, or how far the embeddings of the two lie apart."""
    if compared.base is None:
        return f"embedding change {compared.loss}; same nearest neighbour {compared.agreement.value:z.1%} of windows"
    return (
        f"perplexity {compared.base.value:z.4g} before, {compared.other.value:z.4g} after; loss {compared.loss}; "
        f"KL {compared.kl}; same top {compared.agreement.value:z.1%}"
    )
