"""Vectors back to text by looking up the nearest stored sentence. It is never called generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from superweights.errors import SuperweightsError


@dataclass(frozen=True)
class Found:
    """A text and where it is from: `how` says `nearest stored sentence`; `cosine` to the vector that was asked for."""

    text: str
    how: str
    cosine: float


class SentenceBank:
    """Sentences with their vectors `[n, C]`, and the document that each is of.

    `nearest` never gives a sentence of the document that asks: a bank that holds the answer would answer anything.
    """

    def __init__(self, sentences: Sequence[str], vectors: Tensor, documents: Tensor):
        if not len(sentences) == len(vectors) == len(documents) or not len(sentences):
            raise SuperweightsError(
                f"{len(sentences)} sentences, {len(vectors)} vectors and {len(documents)} documents make no bank.",
                hint="give one vector and one document for each sentence, and at least one.",
            )
        self.sentences, self.documents = list(sentences), documents
        self.vectors = functional.normalize(vectors.float(), dim=-1)

    def nearest(self, vector: Tensor, document: int | None = None) -> Found:
        """The stored sentence nearest to `vector [C]`, of another document than `document`."""
        cosines = self.vectors @ functional.normalize(vector.float(), dim=-1)
        if document is not None:
            cosines = cosines.masked_fill(self.documents == document, -2.0)
        place = int(cosines.argmax())
        return Found(self.sentences[place], "nearest stored sentence", float(cosines[place]))


def ranks(found: Tensor, bank: Tensor, true: Tensor) -> Tensor:
    """The rank (1: first) of the true sentence, `true [n]` its place in `bank [m, C]`, for vectors `found [n, C]`."""
    cosines = functional.normalize(found, dim=-1) @ functional.normalize(bank, dim=-1).T
    return (cosines > cosines.gather(1, true[:, None])).sum(1) + 1
