"""Sentences of a text, none longer than a cap.

Rules of our own: an end mark, then white space and something that begins a sentence. Pieces over the cap are cut at the
strongest separator inside, in the order of the released code; without one, at the cap. (The paper cuts by a trained
model, SaT, which is on a hub only.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from superweights.errors import SuperweightsError

_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-Ý])|\n{2,}")
_SHORT = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|No|Fig|cf|[A-Z])\.$")
_SEPARATORS = ("...", "\n", "!", "?", ";", ":", ".", ",", "\t", " ")
# Texts of at most this many characters are left whole.
_WHOLE = 10


@dataclass(frozen=True)
class SentenceSplitter:
    """`split` gives sentences of at most `cap` characters; joined by a space they are the text, up to white space."""

    cap: int = 200

    def __post_init__(self) -> None:
        if self.cap < 2:
            raise SuperweightsError(
                f"A cap of {self.cap} characters leaves no sentence.", hint="give 2 or more."
            )

    def split(self, text: str) -> list[str]:
        """The sentences of `text`; none for an empty one."""
        stripped = text.strip()
        if len(stripped) <= _WHOLE:
            return [stripped] if stripped else []
        return [part for sentence in _sentences(stripped) for part in self._capped(sentence)]

    def _capped(self, sentence: str) -> list[str]:
        if len(sentence) <= self.cap:
            return [sentence]
        at = self._cut(sentence)
        head, tail = sentence[:at].strip(), sentence[at:].strip()
        return [head, *self._capped(tail)] if head and tail else [head or tail]

    def _cut(self, sentence: str) -> int:
        """After the last of the strongest separators within the cap, in its second half where there is one."""
        for least in (self.cap // 2, 1):
            for separator in _SEPARATORS:
                at = sentence.rfind(separator, least, self.cap - len(separator) + 1)
                if at > 0:
                    return at + len(separator)
        return self.cap


def _sentences(text: str) -> list[str]:
    found, held = [], ""
    for piece in _END.split(text):
        held = f"{held} {piece.strip()}".strip()
        if not _SHORT.search(held):
            found.append(held)
            held = ""
    return [each for each in (*found, held) if each]
