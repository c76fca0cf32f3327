"""A task opened: what training and measuring ask of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from superweights.lab.tasks.backcopy import BackCopy
from superweights.lab.tasks.prose import Prose, opened_prose
from superweights.progress import Progress, silent

TaskSpec = BackCopy | Prose


class Task(Protocol):
    """Rows of token ids, each with BOS (id 0) at position 0. Row n is the same whoever asks, in whatever order."""

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        ...

    @property
    def length(self) -> int:
        """Tokens in a row."""
        ...

    @property
    def tokenizer(self) -> Any:
        """What cut the text into tokens, or None where the tokens are no text."""
        ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Training rows `start` to `stop`: ids `[n, length]`, int64."""
        ...

    def held_out(self, count: int) -> Tensor:
        """The first `count` rows that no training sees: ids `[count, length]`, int64."""
        ...

    def roles(self, ids: Tensor) -> dict[str, Tensor]:
        """Kinds of positions whose losses are told apart: masks `[n, T]`; empty where there are none."""
        ...


def open_task(spec: TaskSpec, cache: Path, progress: Progress = silent) -> Task:
    """The task that `spec` describes. A text is tokenised once, into `cache`."""
    return spec if isinstance(spec, BackCopy) else opened_prose(spec, cache, progress)
