"""Proof by intervention: what the model loses without a weight, beside weights that should not matter."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.axes import Float, Int
from superweights.branch import Branch, Branching
from superweights.stream import give_back_memory
from superweights.subject.facts import vocabulary_by_config

# How many bytes of logits are held at a time.
_LOGIT_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Effect:
    """What a branch changes, per row of the batch: loss rise and KL divergence, both in nats per token `[rows]`."""

    loss: Tensor
    """The rise of the loss over the model as it is `[rows]`."""
    kl: Tensor | None
    """KL(model || branch) `[rows]`; None where it was not asked for."""


def measure(
    run: Branching,
    branches: Sequence[Branch],
    ids: Int[Tensor, "rows tokens"],
    loss_only: Collection[Branch] = (),
) -> tuple[Float[Tensor, " rows"], list[Effect]]:
    """The model's own loss per row, and each branch's effect, on the batch that `run` has passed over.

    The loss is over positions 1 to the end; KL(model || branch) over the same predictions, left out (None)
    for `loss_only` branches.
    """
    step = max(1, _LOGIT_BYTES // (ids.shape[1] * _vocabulary(run) * 4))
    base_loss, losses, kls = [], [[] for _ in branches], [[] for _ in branches]
    for start in range(0, ids.shape[0], step):
        rows = slice(start, start + step)
        base = _log_probabilities(run.logits(None, rows))
        own = _loss(base, ids[rows])
        base_loss.append(own)
        weights = base.exp()
        for i, branch in enumerate(branches):
            other = _log_probabilities(run.logits(branch, rows))
            losses[i].append(_loss(other, ids[rows]) - own)
            if branch not in loss_only:
                kls[i].append(-torch.linalg.vecdot(weights, other.sub_(base)).mean(-1))
            del other
            give_back_memory()
    effects = [
        Effect(torch.cat(loss), torch.cat(kl) if kl else None) for loss, kl in zip(losses, kls, strict=True)
    ]
    return torch.cat(base_loss), effects


@dataclass(frozen=True)
class Bars:
    """Where the verdicts begin, in nats per token: `critical` from ln 2 (perplexity doubles), `partial` from 0.05."""

    critical: float = math.log(2)
    partial: float = 0.05


def judge(
    interval: tuple[float, float], beyond: Sequence[tuple[float, float]] = (), bars: Bars | None = None
) -> str:
    """`critical`, `partial`, `benign` or `undecided`, from where the loss rise lies (95 % interval, nats/token).

    `critical` and `partial` lie above their bar with the whole interval, `benign` below the lower bar; what
    reaches over that bar is undecided. `beyond` holds, for each control, how much more the weight costs than weights
    that should not matter: a loss that any weight of the layer, row or column would cost proves nothing about
    this one, so where that is not above zero the weight is `benign`, and where it cannot be told, undecided.
    """
    low, high = interval
    bars = bars or Bars()
    if high < bars.partial or any(most <= 0 for _, most in beyond):
        return "benign"
    if low < bars.partial or any(least <= 0 for least, _ in beyond):
        return "undecided"
    return "critical" if low >= bars.critical else "partial"


def is_open(interval: tuple[float, float], bars: Bars) -> bool:
    """Whether more windows could still change the verdict: the interval reaches over one of the bars."""
    low, high = interval
    return any(low < bar <= high for bar in (bars.partial, bars.critical))


def _vocabulary(run: Branching) -> int:
    return vocabulary_by_config(run.model.config)


def _log_probabilities(logits: Tensor) -> Tensor:
    """Of all tokens but the last, written over `logits`: a vocabulary is large, and copies of it are memory."""
    kept = logits[:, :-1].float()
    for row in kept:
        row.sub_(row.logsumexp(-1, keepdim=True))
    return kept


def _loss(log_probabilities: Tensor, ids: Tensor) -> Tensor:
    return -log_probabilities.gather(-1, ids[:, 1:, None])[..., 0].mean(-1)
