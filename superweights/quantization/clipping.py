"""Where blocks are cut off: a lower and an upper limit for each, from the weights that count."""

from __future__ import annotations

import torch
from torch import Tensor

from superweights.axes import Float
from superweights.quantization.scheme import Clip


def limits(blocks: torch.Tensor, counted: torch.Tensor | None, clip: Clip, tensor_limit: float | None):
    """The lower and upper limit of each row of `blocks`, `[blocks, 1]` each; None where nothing is clipped.

    `counted` marks the elements that count (not padding, not held out); None means all. `tensor_limit` is what
    `share_limit` said for the whole tensor.
    """
    if clip.rule == "none":
        return None
    if clip.rule == "z":
        mean, deviation = _moments(blocks, counted)
        return mean - clip.by * deviation, mean + clip.by * deviation
    if clip.rule == "tensor_share":
        assert tensor_limit is not None
        limit = blocks.new_full((len(blocks), 1), tensor_limit)
    else:
        limit = _limit_of_absolute(blocks.abs(), counted, clip)
    return -limit, limit


def share_limit(weight: Float[Tensor, ...], counted: torch.Tensor | None, share: float) -> float:
    """The k-th largest |w| of the whole tensor, k = max(int(elements * share), 1)."""
    sizes = weight.abs().flatten().float() if counted is None else weight[counted].abs().float()
    if not len(sizes):
        return 0.0
    return float(sizes.topk(max(int(len(sizes) * share), 1)).values[-1])


def quantile(sizes: Float[Tensor, "blocks elements"], share: float, counts: Tensor) -> torch.Tensor:
    """The `share` quantile of each row's first `counts` elements, rows sorted ascending; linear in between.

    The same as torch.quantile, which refuses rows above 16.7 million elements.
    """
    place = share * (counts - 1).clamp(min=0).double()
    below, above = place.floor().long(), place.ceil().long()
    low, high = sizes.gather(1, below), sizes.gather(1, above)
    return torch.lerp(low, high, (place - below).float())


def _moments(values: torch.Tensor, counted: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (n - 1) of each row's counted elements; 0 deviation where n is below 2."""
    if counted is None:
        counted = torch.ones_like(values, dtype=torch.bool)
    number = counted.sum(1, keepdim=True).float()
    mean = torch.where(counted, values, 0).sum(1, keepdim=True) / number.clamp(min=1)
    squares = torch.where(counted, values - mean, 0).square().sum(1, keepdim=True)
    return mean, (squares / (number - 1).clamp(min=1)).sqrt()


def _limit_of_absolute(sizes: torch.Tensor, counted: torch.Tensor | None, clip: Clip) -> torch.Tensor:
    if clip.rule == "z_of_absolute":
        mean, deviation = _moments(sizes, counted)
        return mean + clip.by * deviation
    # Uncounted elements sort behind all others, so that the first `counts` of a row are the counted ones.
    ordered = (sizes if counted is None else torch.where(counted, sizes, torch.inf)).sort(1).values
    counts = torch.full_like(sizes[:, :1], sizes.shape[1], dtype=torch.long)
    if counted is not None:
        counts = counted.sum(1, keepdim=True)
    if clip.rule == "iqr":
        lower, upper = quantile(ordered, 0.25, counts), quantile(ordered, 0.75, counts)
        limit = upper + clip.by * (upper - lower)
    else:
        kth = (counts.double() * clip.by + 1).long().clamp(min=1)
        limit = ordered.gather(1, (counts - kth).clamp(min=0))
    return torch.where(counts > 0, limit, 0.0)
