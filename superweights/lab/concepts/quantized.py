"""Vectors as codes, coarse to fine (residual quantization), and the model that predicts them book by book.

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
    """The discrete model: logits over the units of book k, given the context and what the books before k say.

    The Two-Tower's towers, with the partial sum in the place of the noisy vector and k in the place of the time.
    """

    def __init__(self, quantizer: ResidualQuantizer, width: int, context_layers: int, layers: int):
        super().__init__()
        self.quantizer = quantizer
        _, units, concept = quantizer.books.shape
        self.towers = TwoTowerLcm(concept, width, context_layers, layers, outputs=units)

    def forward(self, x: Tensor, codes: Tensor, k: int) -> Tensor:
        """Logits `[B, S, V]` over book k of each place of documents `x [B, S, C]` with `codes [B, S, K]`."""
        partial = self.quantizer.partial(codes)[..., k, :]
        steps = torch.full(codes.shape[:-1], k)
        return self.towers.denoise(partial, steps, self.towers.encode(x[:, :-1]), context_mask(x.shape[1]))

    def loss(self, x: Tensor) -> Tensor:
        """The mean cross-entropy of all books, nats for each unit."""
        codes = self.quantizer.encode(x)
        losses = [
            nn.functional.cross_entropy(self(x, codes, k).flatten(0, 1), codes[..., k].flatten())
            for k in range(codes.shape[-1])
        ]
        return torch.stack(losses).mean()


def _k_means(x: Tensor, units: int, rounds: int, generator: torch.Generator) -> Tensor:
    centroids = x[torch.randperm(len(x), generator=generator)[:units]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(x, centroids).argmin(1)
        count = torch.bincount(nearest, minlength=units)
        total = torch.zeros_like(centroids).index_add(0, nearest, x)
        centroids = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], centroids)
    return centroids
