"""`superweights.audit`: a quantized checkpoint held against the original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.audits import audit as hold_against
from superweights.checkpoint import opened_checkpoint
from superweights.errors import SuperweightsError
from superweights.index.choice import choose_weights
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject import Reading, Source


def audit(
    quantized: Any,
    against: Any,
    weights: Sequence[Address | str] = (),
    reading: Reading | None = Reading(window=128, windows=8),  # noqa: B008 - frozen
    *,
    record: Record | Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `audits.Audit`: what became of super weights, super activation, sinks and predictions.

    The weights are those named, else those of a `record` that `find` wrote about the original, else the known ones;
    where there are none, predictions alone are judged. `reading` None runs neither model.

    >>> record = audit("smollm2-int4", against="embedded")     # doctest: +SKIP
    """
    source, original = Source.of(quantized), Source.of(against)
    with opened_checkpoint(source) as changed, opened_checkpoint(original) as whole:
        choice = choose_weights(whole, weights, record)
        chosen = choice.addresses
        if not chosen and reading is None:
            known = "was found" if choice.policy == "record" else "is known"
            raise SuperweightsError(
                f"No super weight of {whole.name} {known}, so there is nothing to audit without running the models.",
                hint="leave out --weights-only, or name weights with --weights 'TENSOR[i, j]'.",
            )
        tokens = None if reading is None else reading.tokens_of(whole, seed)
        found = hold_against(
            changed, whole, chosen, tokens, device=source.device, seed=seed, progress=progress
        )
        compared = found.comparison
        scores = (
            [
                score
                for score in (compared.base, compared.other, compared.loss, compared.kl, compared.agreement)
                if score is not None
            ]
            if compared is not None
            else ()
        )
        return Record.of(
            "audit", changed, seed=seed, scores=scores, findings=found, against=whole.name,
            against_fingerprint=whole.fingerprint(),
        )  # fmt: skip
