"""`superweights.profile`: everything that prevention is judged by, of any checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from superweights.lab.profile import profile_of
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.stream.opening import opening
from superweights.subject import Reading, Source, check_next_token, context_of, device_of

# Windows beside those that are profiled: rounding is calibrated on them.
_CALIBRATION = 4
_WINDOW = 64


def profile(
    model: Any = None,
    reading: Reading | None = None,
    *,
    rounding: bool = True,
    search: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of a `lab.profile.Profile`: sinks, outliers in every sense, what rounding costs, super weights.

    `model` is a name, a path, an open checkpoint, or a `Source` that says how to open one. `reading` None is
    eight windows of 64 tokens of the embedded prose, the length at which sink rates are published (fewer where the
    model reads no more); a model without a tokenizer reads random tokens. `rounding` also measures what eight to three
    bits cost, calibrated on four more windows, with the model in memory. `search` also looks for super weights, as
    `find` does.

    Raises `SuperweightsError` for a model whose attention cannot be seen, and for a text that is too short.

    >>> profile("embedded").findings.argmax_share  # doctest: +SKIP
    """
    source = Source.of(model)
    source = replace(source, resident=True) if rounding else source
    progress("profiling", 0, 1)
    with opening(source) as opened:
        check_next_token(opened.model)
        if reading is None:
            reading = Reading(window=min(_WINDOW, context_of(opened.model) or _WINDOW), windows=8)
        longer = replace(reading, windows=reading.windows + (_CALIBRATION if rounding else 0))
        ids = longer.tokens_of(opened.checkpoint, seed).to(device_of(opened.model))
        calibration = ids[reading.windows :] if rounding else None
        found = profile_of(opened.model, ids[: reading.windows], calibration=calibration, seed=seed)
        if search:
            found = replace(found, **_searched(opened.checkpoint, progress))
        text = None if opened.checkpoint.tokenizer() is None else reading.read().sha256
        record = Record.of(
            "profile", opened.checkpoint, seed=seed, scores=found.scores(), findings=found, text_sha256=text
        )
    progress("profiling", 1, 1)
    return record


def _searched(checkpoint: Any, progress: Progress) -> dict[str, Any]:
    from superweights.discovery import find

    proven = find(checkpoint, progress=progress)
    return {"super_weights": len(proven.super_weights), "super_weights_verdict": proven.verdict}
