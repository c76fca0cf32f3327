"""What a question is answered with: numbers with their errors, tables, a picture, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from superweights.picture import Panel
from superweights.record import Score


@dataclass(frozen=True)
class Sheet:
    """A table for people: a title, the columns' headings, rows of numbers and words (None: unknown), a note."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[float | int | str | bool | None]]
    note: str = ""


class Answer(Protocol):
    """An answer: a frozen dataclass of plain values (numbers, words, tuples, dictionaries; no tensors)."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def scores(self) -> tuple[Score, ...]:
        """The few numbers that sum it up, with their errors."""
        ...

    def sheets(self) -> tuple[Sheet, ...]:
        """What a person reads."""
        ...

    def panels(self) -> tuple[Panel, ...]:
        """What a person looks at; empty where there is nothing to draw."""
        ...


def to_json(answer: Answer) -> dict[str, Any]:
    """`answer` as plain JSON values; numbers that JSON has no word for become null when it is written."""
    return asdict(answer)
