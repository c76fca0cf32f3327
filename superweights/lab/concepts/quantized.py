"""Vectors as codes, coarse to fine (residual quantization), and the two models that predict them book by book.

Source: arXiv 2412.08821, section 2.4. Books are fitted by k-means, level by level, on what the levels before left over;
the paper takes FAISS's improved variant.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.lab.concepts.models import TwoTowerLcm, context_mask


class ResidualQuantizer(nn.Module):
    """`books [K, V, C]`; a vector is the sum of one centroid of each book."""

    def __init__(self, books: Tensor):
        super().__init__()
        self.books: Tensor
        self.register_buffer("books", books)

    @classmethod
    def fitted(
        cls, vectors: Tensor, books: int, units: int, rounds: int = 15, seed: int = 0
    ) -> ResidualQuantizer:
        """Books for `vectors [n, C]`. Raises `SuperweightsError` for fewer vectors than units."""
        if len(vectors) < units or books < 1:
            raise SuperweightsError(
                f"{len(vectors)} vectors cannot make {books} books of {units} units.",
                hint="give more vectors.",
            )
        left, found = vectors.clone(), []
        generator = torch.Generator().manual_seed(seed)
        for _ in range(books):
            centroids = _k_means(left, units, rounds, generator)
            found.append(centroids)
            left = left - centroids[torch.cdist(left, centroids).argmin(1)]
        return cls(torch.stack(found))

    def encode(self, x: Tensor) -> Tensor:
        """Codes `[..., K]` of vectors `[..., C]`."""
        left, codes = x.flatten(0, -2), []
        for book in self.books:
            codes.append(torch.cdist(left, book).argmin(1))
            left = left - book[codes[-1]]
        return torch.stack(codes, -1).unflatten(0, x.shape[:-1])

    def partial(self, codes: Tensor) -> Tensor:
        """What the first 0, 1, ... K books say together, `[..., K + 1, C]`."""
        each = torch.stack([book[codes[..., k]] for k, book in enumerate(self.books)], -2)
        return torch.cat([torch.zeros_like(each[..., :1, :]), each.cumsum(-2)], -2)

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors `[..., C]` of codes `[..., K]`."""
        return self.partial(codes)[..., -1, :]


class QuantLcm(nn.Module):
    """What comes next, book by book, coarse to fine, given the context and what the books before say.

    The Two-Tower's towers, with the partial sum in the place of the noisy vector and k in the place of the time.
    Discrete: logits over the units of book k. Continuous: the vector that the books before k leave over, by squared
    error; its unit is the nearest centroid, or one drawn with p(c) ~ exp(-beta |c - r|²).
    """

    def __init__(
        self,
        quantizer: ResidualQuantizer,
        width: int,
        context_layers: int,
        layers: int,
        heads: int = 4,
        *,
        continuous: bool = False,
    ):
        super().__init__()
        self.quantizer, self.continuous = quantizer, continuous
        _, units, concept = quantizer.books.shape
        outputs = concept if continuous else units
        self.towers = TwoTowerLcm(concept, width, context_layers, layers, heads, outputs=outputs)

    def forward(self, x: Tensor, codes: Tensor, k: int) -> Tensor:
        """For book k of each place of documents `x [B, S, C]` with `codes [B, S, K]`: logits `[B, S, V]`, or what is
        left over, `[B, S, C]`."""
        partial = self.quantizer.partial(codes)[..., k, :]
        return self._said(partial, k, self.towers.encode(x[:, :-1]), context_mask(x.shape[1]))

    def loss(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """The mean over books and places (those `seen`, `[B, S]`): cross-entropy in nats for each unit, or the squared
        distance to what is left over, summed over dimensions."""
        codes = self.quantizer.encode(x)
        partial = self.quantizer.partial(codes)
        chosen = torch.ones(x.shape[:2], dtype=torch.bool) if seen is None else seen
        losses = [
            (self(x, codes, k) - (x - partial[..., k, :])).square().sum(-1)[chosen].mean()
            if self.continuous
            else nn.functional.cross_entropy(self(x, codes, k)[chosen], codes[..., k][chosen])
            for k in range(codes.shape[-1])
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def sample_next(
        self,
        documents: Tensor,
        lengths: Tensor,
        beta: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The next vectors `[B, C]` of documents `[B, S, C]`, of which the first `lengths [B]` places count.

        `beta` None takes the likeliest unit of each book (the nearest centroid); else units are drawn, with logits
        times `beta`, or with exp(-beta |c - r|²).
        """
        context = self.towers.encode(documents)
        mask = (torch.arange(context.shape[1]) <= lengths[:, None])[:, None, None]
        found = torch.zeros_like(documents[:, 0])
        for k, book in enumerate(self.quantizer.books):
            said = self._said(found[:, None], k, context, mask)[:, 0]
            liking = -torch.cdist(said, book).square() if self.continuous else said
            unit = (
                liking.argmax(-1)
                if beta is None
                else torch.multinomial((beta * liking).softmax(-1), 1, generator=generator)[:, 0]
            )
            found = found + book[unit]
        return found

    def _said(self, partial: Tensor, k: int, context: Tensor, mask: Tensor) -> Tensor:
        steps = torch.full(partial.shape[:-1], k)
        return self.towers.denoise(partial, steps, context, mask)


def _k_means(x: Tensor, units: int, rounds: int, generator: torch.Generator) -> Tensor:
    centroids = x[torch.randperm(len(x), generator=generator)[:units]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(x, centroids).argmin(1)
        count = torch.bincount(nearest, minlength=units)
        total = torch.zeros_like(centroids).index_add(0, nearest, x)
        centroids = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], centroids)
    return centroids
