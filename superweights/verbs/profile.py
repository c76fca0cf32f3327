"""`profile`: everything that prevention is judged by, of any checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from superweights.progress import Progress, silent
from superweights.subject.reading import Reading
from superweights.subject.source import Source

if TYPE_CHECKING:
    from superweights.lab.profile import Profile
    from superweights.record import Record

# Windows more than are profiled: rounding is calibrated on them.
_CALIBRATION = 4


def profile(
    model: Source | str | None = None,
    reading: Reading | None = None,
    *,
    rounding: bool = True,
    search: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Profile, Record]:
    """The profile of a checkpoint on windows of a text, and a record that holds it.

    `model` is what `Source` names, None the embedded model. `reading` says which text and how it is cut (None: eight
    windows of 64 tokens of the embedded prose, the length at which sink rates are published); a model without a
    tokenizer reads random tokens. `rounding` also measures what eight to three bits cost, on four more windows'
    calibration, with the model in memory. `search` also looks for super weights, as `find` does.

    Raises `SuperweightsError` for a model whose attention cannot be seen, and for a text that is too short.
    """
    from superweights.checkpoint import open_checkpoint
    from superweights.discovery import find
    from superweights.lab.profile import profile_of
    from superweights.record import Record, versions
    from superweights.stream import streaming
    from superweights.subject import device_of, vocabulary_of

    source = model if isinstance(model, Source) else Source(model)
    reading = reading or Reading(window=64, windows=8)
    longer = replace(reading, windows=reading.windows + (_CALIBRATION if rounding else 0))
    with open_checkpoint(
        source.name, allow_pickle=source.allow_pickle, trust_remote_code=source.trust_remote_code
    ) as checkpoint:
        tokenizer = checkpoint.tokenizer()
        with streaming(checkpoint, **{**source.loading, "resident": rounding or source.resident}) as opened:
            ids = longer.tokens(tokenizer, vocabulary_of(opened), seed).to(device_of(opened))
            progress("profiling", 0, 1)
            calibration = ids[reading.windows :] if rounding else None
            found = profile_of(opened, ids[: reading.windows], calibration=calibration, seed=seed)
        if search:
            proven = find(checkpoint, progress=progress)
            found = replace(
                found, super_weights=len(proven.super_weights), super_weights_verdict=proven.verdict
            )
        conditions = {"random_tokens": True} if tokenizer is None else reading.conditions(tokenizer)
        record = Record(
            "profile", checkpoint.origin(), versions(), seed, found.scores(),
            {"profile": found.to_json(), "conditions": conditions},
        )  # fmt: skip
    progress("profiling", 1, 1)
    return found, record
