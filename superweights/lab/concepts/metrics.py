"""What a predicted vector is judged by (arXiv 2412.08821, section 2.4.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def l2(found: Tensor, true: Tensor) -> Tensor:
    """Distances `[n]` of predictions to the truth."""
    return (found - true).norm(dim=-1)


def contrastive_accuracy(found: Tensor, true: Tensor, documents: Tensor) -> float:
    """CA: the share of other documents' vectors that are further from the prediction than the truth is.

    0.5 is chance, 1 perfect; a tie counts half.
    """
    own = l2(found, true)[:, None]
    apart = torch.cdist(found, true)
    other = documents[:, None] != documents
    won = (apart > own).float() + 0.5 * (apart == own).float()
    return float((won * other).sum() / other.sum().clamp_min(1))


def paraphrasing(found: Tensor, true: Tensor, before: list[Tensor]) -> float:
    """PAR: the largest cosine of each prediction to what came before, over the truth's own; mean. 1: as the text."""
    ratios = [
        float(_cosines(x, past).max() / _cosines(y, past).max().clamp_min(1e-6))
        for x, y, past in zip(found, true, before, strict=True)
    ]
    return sum(ratios) / len(ratios)


def _cosines(vector: Tensor, others: Tensor) -> Tensor:
    return functional.cosine_similarity(vector[None], others, dim=-1)
