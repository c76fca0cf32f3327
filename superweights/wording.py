"""Words that many sentences need."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number of things: `1 window`, `2,048 tokens`, `3 masses`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"
