"""`superweights find` as a record: the super weights of a model, each proven by removing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from superweights.checkpoint import opened_checkpoint
from superweights.discovery import Search
from superweights.discovery import find as found
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject import Source
from superweights.subject.text import Text, read_text


def find(
    model: Any = None,
    search: Search | None = None,
    *,
    text: Text | Path | str | None = None,
    progress: Progress = silent,
) -> Record:
    """A record of `discovery.Findings`: what `superweights.find` returns, with all it takes to find it again.

    `model` is a name, a path, an open checkpoint, or a `Source`; `text` a file to prove on (None: built-in prose). Its
    scores are the model's own loss and that without the strongest. After Ctrl-C the record holds what was decided
    until then, and says so (`findings.conditions["interrupted"]`).

    >>> record = find("embedded")                         # doctest: +SKIP
    >>> record.findings.super_weights                     # doctest: +SKIP
    """
    source, search = Source.of(model), search or Search()
    read = read_text(text) if isinstance(text, Path | str) else text
    with opened_checkpoint(source) as checkpoint:
        kept = {"text": read, "progress": progress, "dtype": source.dtype, "device": source.device}
        findings = found(checkpoint, search, **kept)
        scores = [findings.base_loss, *([findings.joint] if findings.joint else [])]
        return Record.of("find", checkpoint, seed=search.seed, scores=scores, findings=findings)
