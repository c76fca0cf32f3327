"""`superweights.evaluate`: task accuracy by lm-evaluation-harness, as a model is and with edited weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from superweights.editing import Edit
from superweights.findings import TaskScores
from superweights.record import Record
from superweights.stream.opening import opening
from superweights.subject import check_next_token

__all__ = ["evaluate", "separate"]


def evaluate(
    model: Any,
    tasks: Sequence[str],
    edits: Sequence[Edit | str] = (),
    *,
    limit: int | None = None,
    fewshot: int | None = None,
    max_length: int | None = None,
    batch_size: int | None = None,
    include_path: Path | str | None = None,
) -> Record:
    """A record of `findings.TaskScores`: `model` (as in `score`) on `tasks`, and with all `edits` made.

    `tasks` are `choice=FILE`, `last_word=FILE`, `perplexity=FILE`, a task file (.yaml), or a task that
    lm-evaluation-harness knows; `limit` takes the first so many items of each, `fewshot` examples stand before each,
    `max_length` is the context in tokens. None is the harness's default. Standard errors are over items.

    Raises `SuperweightsError` without the extra `eval`, and as `harness.accuracy`.

    >>> record = evaluate("embedded", ["last_word=passages.jsonl"])     # doctest: +SKIP
    """
    from superweights.harness import Conditions, accuracy

    made = [edit if isinstance(edit, Edit) else Edit.parse(edit) for edit in edits]
    conditions = Conditions(batch_size, fewshot, max_length, None, include_path)
    with opening(model) as opened:
        check_next_token(opened.model)
        asked = opened.model, opened.checkpoint.tokenizer(), tasks, limit
        base = accuracy(*asked, conditions=conditions)
        edited = accuracy(*asked, edits=made, conditions=conditions) if made else None
        found = TaskScores(
            {
                "tasks": list(tasks),
                "limit": limit,
                "dtype": opened.conditions()["dtype"],
                **asdict(conditions),
                "include_path": str(include_path) if include_path else None,
            },
            tuple(edit.to_json() for edit in made),
            tuple(base),
            None if edited is None else tuple(edited),
        )
        programs = {"lm_eval": version("lm_eval")}
        return Record.of("evaluate", opened.checkpoint, scores=found.base, findings=found, programs=programs)


def separate(tasks: Sequence[str]) -> list[str]:
    """Each task alone: names may come with commas between them; what names a file is one task."""
    return [part for each in tasks for part in ([each] if "=" in each else each.split(",")) if part]
