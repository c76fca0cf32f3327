"""How much of a decoder's text comes from the vector: its loss and its texts with the sentence's own vector, and with
the three that say nothing of it.

`another's`: the vector of another held-out sentence. `mean`: the mean of the training vectors. `none`: no vector, which
the decoder has seen in training. What own loses less than none is what the vector says; text may be shown with these
beside it only. Beside the texts stands the nearest stored sentence, which needs no decoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from superweights.lab.concepts.decoder import ConceptDecoder, rows_of
from superweights.lab.concepts.documents import Documents
from superweights.lab.concepts.metrics import bleu
from superweights.lab.concepts.retrieving import SentenceBank
from superweights.lab.concepts.vectors import ConceptEncoder
from superweights.lab.designs.fitting import Schedule, fit

Progress = Callable[[str, int, int], None]
OWN, OTHERS, MEAN, NONE = CONTROLS = ("own vector", "another's vector", "mean vector", "no vector")
NEAREST = "nearest stored sentence"


@dataclass(frozen=True)
class DecoderSettings:
    """Sizes of the decoder and of its training."""

    width: int = 96
    """Numbers of each byte's state."""
    layers: int = 2
    """Blocks."""
    steps: int = 300
    """Updates."""
    rows: int = 16
    """Sentences of an update."""
    rate: float = 2e-3
    """The largest learning rate."""
    written: int = 24
    """Held-out sentences that are written out."""
    longest: int = 120
    """Bytes after which a written sentence is cut."""


@dataclass(frozen=True)
class DecoderRun:
    """One seed. For each of `CONTROLS`, and for texts the nearest stored sentence too."""

    seed: int
    bits: dict[str, float]
    """Held-out bits for each byte, the end of the sentence included."""
    bleu: dict[str, float]
    """BLEU-4 of the written sentences against the true ones."""
    cosine: dict[str, float]
    """The cosine of a written sentence's vector, encoded again, to the true one; 0 for a text that is empty."""
    parameters: int
    """Numbers of the decoder."""
    sentences: tuple[int, int]
    """Sentences trained on, and held out."""
    shown: tuple[tuple[str, str], ...]
    """The first held-out sentences, each with what was written of its own vector."""


def decoder_run(
    documents: Documents, encoder: ConceptEncoder, settings: DecoderSettings, seed: int, progress: Progress
) -> DecoderRun:
    """A decoder trained on four fifths of the documents and judged on the others' sentences that are new to it."""
    order = torch.randperm(len(documents.lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = len(order) // 5
    training, held = (_pairs(documents.part(part)) for part in (order[cut:], order[:cut]))
    held = _without(held, set(training[0]))
    torch.manual_seed(seed)
    decoder = ConceptDecoder(documents.vectors.shape[-1], settings.width, settings.layers)
    progress(f"seed {seed}: decoder", 0, 2)
    trained(decoder, *training, settings, seed)
    progress(f"seed {seed}: judged", 1, 2)
    sentences, vectors = held
    given = controls(vectors, training[1])
    bits = {name: bits_per_byte(decoder, each, sentences) for name, each in given.items()}
    some = slice(settings.written)
    texts = {
        name: decoder.write(None if each is None else each[some], len(vectors[some]), settings.longest)
        for name, each in given.items()
    }
    bank = SentenceBank(*training, torch.zeros(len(training[0])))
    texts[NEAREST] = [bank.nearest(vector).text for vector in vectors[some]]
    return DecoderRun(
        seed,
        bits,
        {name: bleu(found, sentences[some]) for name, found in texts.items()},
        {name: _cosine(encoder, found, vectors[some]) for name, found in texts.items()},
        sum(p.numel() for p in decoder.parameters()),
        (len(training[0]), len(sentences)),
        tuple(zip(sentences[:3], texts[OWN][:3], strict=True)),
    )


def trained(
    decoder: ConceptDecoder, sentences: list[str], vectors: Tensor, settings: DecoderSettings, seed: int
) -> None:
    """Train `decoder` in place on sentences with their vectors `[n, C]`, which are brought to length 1."""
    unit = functional.normalize(vectors, dim=-1)
    generator = torch.Generator().manual_seed(seed)

    def loss(step: int) -> Tensor:
        places = torch.randint(len(sentences), (settings.rows,), generator=generator)
        return decoder.loss(unit[places], rows_of([sentences[n] for n in places.tolist()]), generator)

    fit(decoder, loss, Schedule(settings.steps, settings.rate))


def controls(vectors: Tensor, known: Tensor) -> dict[str, Tensor | None]:
    """What stands in the place of each of `vectors [n, C]` under each control; `known [m, C]` are training vectors."""
    mean = functional.normalize(known.mean(0), dim=0).expand(len(vectors), -1)
    unit = functional.normalize(vectors, dim=-1)
    return {OWN: unit, OTHERS: unit.roll(len(unit) // 2, 0), MEAN: mean, NONE: None}


def bits_per_byte(decoder: ConceptDecoder, vectors: Tensor | None, sentences: list[str]) -> float:
    """The summed loss of sentences over their bytes (the end counts in the loss, as one more symbol to tell)."""
    nats = 0.0
    for at in range(0, len(sentences), 32):
        part = None if vectors is None else vectors[at : at + 32]
        nats += float(decoder.nats(part, rows_of(sentences[at : at + 32])).sum())
    return nats / math.log(2) / sum(len(sentence.encode()) for sentence in sentences)


def _pairs(documents: Documents) -> tuple[list[str], Tensor]:
    """Sentences and vectors `[n, C]`, without what ends every document."""
    seen = documents.seen() & (torch.arange(documents.vectors.shape[1]) < documents.lengths[:, None] - 1)
    return [sentence for held in documents.sentences for sentence in held[:-1]], documents.vectors[seen]


def _without(pairs: tuple[list[str], Tensor], known: set[str]) -> tuple[list[str], Tensor]:
    places = [n for n, sentence in enumerate(pairs[0]) if sentence not in known]
    return [pairs[0][n] for n in places], pairs[1][places]


def _cosine(encoder: ConceptEncoder, texts: list[str], vectors: Tensor) -> float:
    places = [n for n, text in enumerate(texts) if text.strip()]
    if not places:
        return 0.0
    again = encoder.encode([texts[n] for n in places])
    return float(functional.cosine_similarity(again, vectors[places], dim=-1).sum()) / len(texts)
