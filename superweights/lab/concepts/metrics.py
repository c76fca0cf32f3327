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
    """PAR: how near the predictions come to what was said before, over how near the truth does. 1: as the text.

    The largest cosine to a sentence before, averaged over predictions, over the same of the truth. The paper averages
    the ratios; with an encoder whose cosines reach zero that average is whatever the smallest one makes of it.
    """
    near = [
        sum(float(_cosines(x, past).max()) for x, past in zip(vectors, before, strict=True))
        for vectors in (found, true)
    ]
    return near[0] / near[1]


def _cosines(vector: Tensor, others: Tensor) -> Tensor:
    return functional.cosine_similarity(vector[None], others, dim=-1)
