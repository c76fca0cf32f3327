"""What a predicted vector, and a text made of it, is judged by (arXiv 2412.08821, section 2.4.1)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

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


def bleu(found: Sequence[str], true: Sequence[str], longest: int = 4) -> float:
    """BLEU of the texts together (Papineni et al. 2002), 0 to 1: words and marks, no smoothing, one reference each."""
    hits, tries = [0] * longest, [0] * longest
    lengths = [0, 0]
    for texts in zip(found, true, strict=True):
        words = [re.findall(r"\w+|[^\w\s]", text) for text in texts]
        lengths = [length + len(each) for length, each in zip(lengths, words, strict=True)]
        for n in range(longest):
            ours, theirs = (Counter(zip(*(each[k:] for k in range(n + 1)), strict=False)) for each in words)
            hits[n] += (ours & theirs).total()
            tries[n] += ours.total()
    if not all(hits):
        return 0.0
    precision = sum(math.log(h / t) for h, t in zip(hits, tries, strict=True)) / longest
    return math.exp(precision + min(0.0, 1 - lengths[1] / lengths[0]))


def _cosines(vector: Tensor, others: Tensor) -> Tensor:
    return functional.cosine_similarity(vector[None], others, dim=-1)
