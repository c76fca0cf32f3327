"""Documents as vectors: the manual that every CPython ships (`pydoc_data.topics`), sentence by sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.lab.concepts.splitting import SentenceSplitter
from superweights.lab.concepts.vectors import END_OF_TEXT, ConceptEncoder


@dataclass(frozen=True, eq=False)
class Documents:
    """`vectors [n, S, C]`, of which the first `lengths [n]` count; `sentences` in the same order; `end [C]`."""

    vectors: Tensor
    lengths: Tensor
    sentences: tuple[tuple[str, ...], ...]
    end: Tensor

    def seen(self) -> Tensor:
        """Which places count, `[n, S]`."""
        return torch.arange(self.vectors.shape[1]) < self.lengths[:, None]

    def part(self, places: list[int]) -> Documents:
        """These documents alone."""
        held = tuple(self.sentences[n] for n in places)
        return Documents(self.vectors[places], self.lengths[places], held, self.end)


def manual(splitter: SentenceSplitter, least: int = 8, most: int = 24) -> list[list[str]]:
    """The topics of Python's manual with at least `least` sentences, the first `most` of each."""
    from pydoc_data.topics import topics  # type: ignore[import-untyped]

    found = [splitter.split(" ".join(text.split("\n"))) for _, text in sorted(topics.items())]
    return [sentences[:most] for sentences in found if len(sentences) >= least]


def encoded(texts: list[list[str]], encoder: Callable[[], ConceptEncoder], cache: Path) -> Documents:
    """The documents' vectors; "End of text." ends each. `encoder()` is only made where `cache` has no vectors of these
    very sentences. Raises `SuperweightsError` for an empty document, or none."""
    if not texts or any(not sentences for sentences in texts):
        raise SuperweightsError(
            "A document without a sentence has no vectors.", hint="leave empty documents out."
        )
    ended = [[*sentences, END_OF_TEXT] for sentences in texts]
    flat = [sentence for sentences in ended for sentence in sentences]
    vectors = _cached(flat, cache)
    if vectors is None:
        vectors = encoder().encode(flat)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, vectors=vectors.numpy(), sentences=np.array(flat))
    lengths = [len(sentences) for sentences in ended]
    padded = torch.nn.utils.rnn.pad_sequence(list(vectors.split(lengths)), batch_first=True)
    return Documents(padded, torch.tensor(lengths), tuple(map(tuple, ended)), vectors[lengths[0] - 1])


def _cached(sentences: list[str], cache: Path) -> Tensor | None:
    if not cache.is_file():
        return None
    with np.load(cache) as held:
        same = held["sentences"].tolist() == sentences
        return torch.from_numpy(held["vectors"]) if same else None
