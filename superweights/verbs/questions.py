"""The questions of `anatomy`, for whoever lists them. Needs no torch."""

from __future__ import annotations

from superweights.interpretability.questions import QUESTIONS


def questions() -> dict[str, str]:
    """What can be asked: by word, what it asks in a line."""
    return {question.word: question.asks for question in QUESTIONS}
