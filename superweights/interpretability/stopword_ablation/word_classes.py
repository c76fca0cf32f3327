"""Words taken out of a text: stop words, punctuation, articles; and as many tokens at random, for comparison.

Source: LLM-Microscope (arXiv 2502.15007, section 4.2), which deletes them from benchmark prompts without giving
its list or a control. The lists here are declared: `STOP_WORDS` of superweights.scoring, and a, an, the.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

from superweights.errors import SuperweightsError
from superweights.scoring import STOP_WORDS

ARTICLES = frozenset({"a", "an", "the"})
_UNIT = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")

# Whether a word or mark belongs to a class.
CLASSES: Mapping[str, Callable[[str], bool]] = {
    "stop words": lambda unit: unit[0].isalnum() and unit.lower() in STOP_WORDS,
    "punctuation": lambda unit: not (unit[0].isalnum() or unit[0] == "_"),
    "articles": lambda unit: unit.lower() in ARTICLES,
}
Span = tuple[int, int]


def remove(text: str, classes: Sequence[str], keep_spans: Sequence[Span] = ()) -> str:
    """`text` without the words and marks of `classes`, spaces closed up.

    `keep_spans` are (start, end) characters in which nothing is touched.

    >>> remove("The cat, a tabby, sat on the mat.", ["articles"])
    'cat, tabby, sat on mat.'
    >>> remove("The cat, a tabby, sat on the mat.", ["stop words", "punctuation"])
    'cat tabby sat mat'
    """
    return _without(text, members(text, classes, keep_spans))


def members(text: str, classes: Sequence[str], keep_spans: Sequence[Span] = ()) -> list[Span]:
    """Where the words and marks of `classes` stand, outside `keep_spans`."""
    unknown = [name for name in classes if name not in CLASSES]
    if unknown or not classes:
        raise SuperweightsError(
            f"There is no class of words called {unknown[0]!r}."
            if unknown
            else "No class of words is given.",
            hint=f"choose from {', '.join(CLASSES)}.",
        )
    return [
        span
        for span in _units(text, keep_spans)
        if any(CLASSES[name](text[slice(*span)]) for name in classes)
    ]


def remove_random(
    text: str, tokens: int, count: Callable[[str], int], seed: int, keep_spans: Sequence[Span] = ()
) -> str:
    """`text` without words and marks drawn at random until `tokens` model tokens are gone, as near as they go.

    `count` says how many tokens a text has; the control for `remove`, which must not lose more than its rival.
    """
    units = _units(text, keep_spans)
    random.Random(seed).shuffle(units)
    whole, gone = count(text), list[Span]()
    low, high = 0, len(units)
    while low < high:  # the number of words after which enough tokens are gone
        middle = (low + high) // 2
        if whole - count(_without(text, units[:middle])) < tokens:
            low = middle + 1
        else:
            high = middle
    choices = [units[:n] for n in {max(0, low - 1), low}]
    gone = min(choices, key=lambda each: abs(whole - count(_without(text, each)) - tokens))
    return _without(text, gone)


def _units(text: str, keep_spans: Sequence[Span]) -> list[Span]:
    return [
        found.span()
        for found in _UNIT.finditer(text)
        if not any(found.start() < end and start < found.end() for start, end in keep_spans)
    ]


def _without(text: str, spans: Sequence[Span]) -> str:
    """`text` without `spans`; where a word was, one of the two spaces around it goes too."""
    parts, at = [], 0
    for start, end in sorted(spans):
        if start > at or not parts:
            parts.append(text[at:start])
        at = end
        before = parts[-1] if parts else ""
        if at < len(text) and text[at].isspace() and (not before or before[-1].isspace()):
            at += 1
    return "".join([*parts, text[at:]]).rstrip() if spans else text
