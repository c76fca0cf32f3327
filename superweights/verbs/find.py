"""`superweights.find`: the super weights of a model, each proven by intervention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from superweights.checkpoint import opened_checkpoint
from superweights.discovery import Findings, Search
from superweights.discovery import find as search_for
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject import Source, Text, read_text


def find(
    model: Any = None,
    search: Search | None = None,
    *,
    text: Text | Path | str | None = None,
    token_ids: Tensor | None = None,
    progress: Progress = silent,
) -> Findings:
    """The super weights of `model` (as in `score`; None: the embedded one), each with its proof.

    `text` (or its file) is what effects are confirmed on (None: English prose that Python brings along);
    `token_ids [rows, tokens]` replace the prompts where there is no tokenizer. `found_record` makes a record of it.
    See `discovery.find` for how it is done.

    >>> findings = find()                                                   # doctest: +SKIP
    >>> [str(weight.address) for weight in findings.super_weights]          # doctest: +SKIP
    """
    source = Source.of(model)
    read = text if isinstance(text, Text) or text is None else read_text(text)
    with opened_checkpoint(source) as checkpoint:
        return search_for(
            checkpoint, search, text=read, token_ids=token_ids, progress=progress, **source.loading
        )


def found_record(findings: Findings) -> Record:
    """What was found, with all it takes to find it again."""
    scores = (findings.base_loss, *((findings.joint,) if findings.joint else ()))
    seed = findings.conditions["search"]["seed"]
    return Record.of("find", _Searched(findings), seed=seed, scores=scores, findings=findings)


class _Searched:
    """The checkpoint that findings are about, by what they say of it."""

    def __init__(self, findings: Findings):
        told = findings.conditions
        self.name, self.revision, self._fingerprint = told["name"], told["revision"], told["fingerprint"]

    def fingerprint(self) -> str:
        """As the checkpoint's."""
        return self._fingerprint
