"""How sure a number is: errors over the samples that it averages."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from superweights.axes import Float

RESAMPLES = 2000
_CHUNK = 1 << 22


def mean_error(values: Float[Tensor, " n"]) -> float | None:
    """The standard error of the mean of independent `values [n]`, or None for fewer than two."""
    if len(values) < 2:
        return None
    return _finite(values.double().std().item() / math.sqrt(len(values)))


def bootstrap(values: Tensor, statistic: Callable[[Tensor], Tensor], seed: int = 0) -> Tensor:
    """`statistic` of 2,000 seeded resamples of `values`: `[2000]`, float64 (or `[2000, ...]`).

    `values [n, k]` are `k` numbers of each of `n` samples; a resample is `n` samples drawn with replacement,
    and `statistic` is given the resamples' means `[r, k]`. Source: Efron 1979; with windows of a text as the
    samples this is the block bootstrap, which keeps the dependence inside a window.
    """
    n = len(values)
    generator = torch.Generator().manual_seed(seed)
    values = values.double()
    step = max(1, _CHUNK // n)
    found = []
    for start in range(0, RESAMPLES, step):
        drawn = torch.randint(n, (min(step, RESAMPLES - start), n), generator=generator)
        weights = torch.zeros(len(drawn), n, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        found.append(statistic(weights @ values / n))
    return torch.cat(found)


def bootstrap_error(
    values: Float[Tensor, "n k"], statistic: Callable[[Tensor], Tensor], seed: int = 0
) -> float | None:
    """The standard error of `statistic` of the means of `values [n, k]`, or None for fewer than two samples.

    Times sqrt(n / (n - 1)), so that for a mean it is the usual unbiased one and not smaller for few samples.
    """
    n = len(values)
    if n < 2:
        return None
    return _finite(bootstrap(values, statistic, seed).std().item() * math.sqrt(n / (n - 1)))


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None
