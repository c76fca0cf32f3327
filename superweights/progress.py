"""How far a long job is, told to whoever wants to know: one kind of call in the whole house."""

from __future__ import annotations

from collections.abc import Callable

# progress(label, done, total): what is being done in a word or two, how many of how many are done.
Progress = Callable[[str, int, int], None]


def silent(label: str, done: int, total: int) -> None:
    """The progress of a job that nobody watches."""


def labelled(progress: Progress | None, label: str) -> Progress:
    """`progress` under another label, for a part of a job that has no name of its own; None is silence."""
    if progress is None:
        return silent
    return lambda _, done, total: progress(label, done, total)
