"""Average precision of many scores at once, ties handled; and what chance alone would give.

Source: the relation-neuron papers (Cuadros et al. 2022, arXiv 2502.17355) rank units by it. Equal scores stand in one
group, as in scikit-learn's `average_precision_score`: a unit that never changes has the share of positives, and not the
1 that an order of equal scores by position may give.
"""

from __future__ import annotations

import torch
from torch import Tensor

from superweights.axes import Bool, Float


def average_precision(scores: Float[Tensor, "n M"], positive: Bool[Tensor, " n"]) -> Float[Tensor, " M"]:
    """The average precision `[M]` of `scores [n, M]` as a ranking of the examples that are `positive [n]`.

    AP = sum over groups of equal score of (recall after - recall before) * precision after. Needs a positive.
    """
    return _precision(*_ranking(scores), positive)


def chance(
    scores: Float[Tensor, "n M"], positive: Bool[Tensor, " n"], permutations: int, seed: int
) -> Float[Tensor, "permutations M"]:
    """Average precisions `[permutations, M]` with the labels dealt out at random: the null."""
    generator = torch.Generator().manual_seed(seed)
    draws = [positive[torch.randperm(len(positive), generator=generator)] for _ in range(permutations)]
    ranking = _ranking(scores)
    return torch.stack([_precision(*ranking, labels) for labels in draws])


def _ranking(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The examples from high to low, `[n, M]`, and the last place of each one's group of equal scores."""
    n = len(scores)
    ordered, order = scores.sort(0, descending=True)
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:-1] = ordered[:-1] != ordered[1:]
    places = torch.arange(n)[:, None].expand_as(order)
    return order, torch.where(ends, places, n).flip(0).cummin(0).values.flip(0)


def _precision(order: Tensor, last: Tensor, positive: Tensor) -> Tensor:
    labels = positive[order]
    hits = labels.cumsum(0, dtype=torch.int32)
    precision = hits.gather(0, last).double() / (last + 1)
    return (precision * labels).sum(0) / positive.sum()
