"""Tokens and scores in words, for tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweights.record import Score


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token says, quoted; its number where there is no tokenizer."""
    if tokenizer is None:
        return [f"token {each}" for each in ids]
    return [repr(tokenizer.decode([each])) for each in ids]


def number(score: Score) -> str:
    """A score and its error without the unit, which stands in the column's title."""
    return str(Score(score.name, score.value, "", score.n, score.standard_error))
