"""What a pass is made of: an edited version of the model, and a block that has just run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from superweights.editing import Edit


class Pausable(Protocol):
    """A watch that can look away."""

    paused: bool


@dataclass(eq=False)
class Branch:
    """One edited version of the model, and how far it has come.

    `hidden` is its hidden state after the latest block (None before its first edit); `apart` says that it
    needs a pass of its own; `watched` lets the watch see its products too.

    Two further kinds of change: `by_row[r]` are edits that hold for row r of the batch alone, all of them in
    one block, so that one branch carries as many versions as there are rows; and `around()` is a context in
    which the block at path `at` runs (a hook on an expert, say), where the change is no edit of a weight.
    """

    edits: tuple[Edit, ...] = ()
    watched: bool = False
    by_row: tuple[tuple[Edit, ...], ...] = ()
    at: str | None = None
    around: Callable[[], AbstractContextManager] | None = None
    hidden: Tensor | None = None
    apart: bool = False
    _own: dict[int, Any] = field(default_factory=dict, repr=False)
    _edits_in: dict[str, list[Edit]] = field(default_factory=dict, repr=False)
    """The edits by the block that they stand in."""


@dataclass(frozen=True, eq=False)
class Visit:
    """A block that has just run on the model's own rows: `before` and `after` are `[rows, tokens, width]`."""

    path: str
    """The block's module."""
    number: int
    """How many blocks have run before it."""
    before: Tensor
    after: Tensor
    branch: Branch | None = None
    """The branch whose own pass it is; None: the model's."""
    tower: str | None = None
    """The tower that the block stands in; None where there is one stack only."""
    layer: int = 0
    """How many blocks of its tower have run before it."""
