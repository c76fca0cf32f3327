"""`superweights.score`: what a model scores on a text, as it is and with edited weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweights.editing import Edit
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.scoring.effects import Passages, Rows, Writing, effects_of
from superweights.stream.opening import opening
from superweights.subject import Reading

__all__ = ["Passages", "Writing", "score"]


def score(
    model: Any = None,
    edits: Sequence[Edit | str] = (),
    reading: Reading = Reading(),  # noqa: B008 - frozen
    *,
    passages: Passages | None = None,
    writing: Writing | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Effects`: perplexity, bits per byte, KL, as the model is and with all `edits` made.

    `model` is a name, a path, an open checkpoint, or a `Source` that says how to open one. An edit is written
    `TENSOR[i, j]=FACTOR` or `TENSOR[i, j]:=VALUE`. Errors are standard errors over windows.

    >>> record = score("embedded", ["model.layers.11.mlp.down_proj.weight[507, 1229]=0"])     # doctest: +SKIP
    """
    made = [edit if isinstance(edit, Edit) else Edit.parse(edit) for edit in edits]
    rows: Rows = [("edited", made)] if made else []
    return score_rows(
        "score", model, rows, reading, passages=passages, writing=writing, seed=seed, progress=progress
    )


def score_rows(
    command: str,
    model: Any,
    rows: Rows,
    reading: Reading,
    *,
    passages: Passages | None = None,
    writing: Writing | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """The record of `command`: the model as it is and under each row of edits."""
    text = reading.read()
    progress("opening", 0, 1)
    with opening(model, may_be_shared=True) as opened:
        found = effects_of(
            opened.model,
            opened.tokenizer,
            rows,
            reading,
            passages=passages,
            writing=writing,
            seed=seed,
            progress=progress,
        )
        scores = [score for score in (found.base.perplexity, found.base.bits_per_byte) if score is not None]
        return Record.of(
            command, opened.checkpoint, seed=seed, scores=scores, findings=found, text_sha256=text.sha256
        )
