"""Sentence vectors back to text: a small causal model over bytes that reads the vector as a few bytes in front.

The encoder stays as it is; it was trained to tell what is alike, not to be undone, so names, numbers and word order are
partly lost. Word dropout and noise on the vector keep the decoder from looking at neither (arXiv 2412.08821, section
2.1, finetunes its decoder with such noise). A share of rows is trained without a vector, so that "no vector" is
something the decoder has seen, and what a vector adds can be told.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.axes import Float, Int
from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.alphabet import BOS, EOS, VOCABULARY, decode, encode
from superweights.lab.concepts.layers import CausalBlock

# Shares of input bytes and of vectors left out in training, and the noise on vectors of length 1.
_WORDS, _VECTORS, _NOISE = 0.3, 0.15, 0.1


class ConceptDecoder(nn.Module):
    """`parts` soft bytes made of a vector, then BOS and the bytes of the sentence, each predicting the next."""

    def __init__(self, concept: int, width: int, layers: int, parts: int = 4, heads: int = 4):
        super().__init__()
        self.parts = parts
        self.prefix, self.nothing = nn.Linear(concept, parts * width), nn.Parameter(torch.zeros(parts, width))
        self.embed, self.hole = nn.Embedding(VOCABULARY, width), nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(CausalBlock(width, heads) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, VOCABULARY)

    def forward(
        self,
        vectors: Float[Tensor, "rows width"] | None,
        ids: Int[Tensor, "rows tokens"],
        holes: Tensor | None = None,
        without: Tensor | None = None,
    ) -> Float[Tensor, "rows tokens vocabulary"]:
        """Logits after each of `ids`; `vectors` None: none for any row. `holes [B, T]`, `without [B]`: what is left
        out in training."""
        x = self.embed(ids)
        if holes is not None:
            x = torch.where(holes[..., None], self.hole, x)
        front = self.nothing.expand(len(ids), -1, -1)
        if vectors is not None:
            made = self.prefix(vectors).unflatten(-1, (self.parts, -1))
            front = made if without is None else torch.where(without[:, None, None], front, made)
        x = torch.cat([front, x], 1)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x[:, self.parts :]))

    def loss(self, vectors: Tensor, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The mean loss in nats for each byte of `ids [B, T]` (of `rows_of`), with noise, holes and rows without."""
        noisy = vectors + _NOISE * torch.randn(vectors.shape, generator=generator) / vectors.shape[-1] ** 0.5
        holes = torch.rand(ids.shape, generator=generator) < _WORDS
        without = torch.rand(len(ids), generator=generator) < _VECTORS
        logits = self(noisy, ids, holes, without)[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1), _targets(ids).flatten())

    @torch.no_grad()
    def nats(self, vectors: Tensor | None, ids: Tensor) -> Tensor:
        """The summed loss `[B]` of each row of `ids`, its end included, in nats."""
        logits = self(vectors, ids)[:, :-1].transpose(1, 2)
        return functional.cross_entropy(logits, _targets(ids), reduction="none").sum(1)

    @torch.no_grad()
    def write(self, vectors: Tensor | None, rows: int, most: int = 200) -> list[str]:
        """The likeliest next byte again and again, until the end or `most` bytes, for each of `rows` vectors."""
        ids = torch.full((rows, 1), BOS)
        for _ in range(most):
            likeliest = self(vectors, ids)[:, -1].argmax(-1)
            ended = (ids == EOS).any(1)
            ids = torch.cat([ids, torch.where(ended, EOS, likeliest)[:, None]], 1)
            if bool((ids[:, -1] == EOS).all()):
                break
        return [decode(_until_end(row)).decode("utf-8", errors="ignore") for row in ids.tolist()]


def rows_of(sentences: Sequence[str]) -> Tensor:
    """The ids `[n, T]` of sentences: BOS, bytes, EOS; EOS again on the right, which is not scored.

    Raises `SuperweightsError` for an empty sentence, or none.
    """
    if not sentences or any(not sentence for sentence in sentences):
        raise SuperweightsError("An empty sentence has no bytes to learn.", hint="leave empty sentences out.")
    rows = [torch.cat([torch.tensor([BOS]), encode(each), torch.tensor([EOS])]) for each in sentences]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=EOS)


def _targets(ids: Tensor) -> Tensor:
    """What follows each id; -100 after the first end."""
    following = ids[:, 1:]
    return following.masked_fill((ids[:, :-1] == EOS), -100)


def _until_end(row: list[int]) -> list[int]:
    return row[: row.index(EOS)] if EOS in row else row
