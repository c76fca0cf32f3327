"""Proof by intervention: what the model loses without a weight, beside weights that should not matter."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.axes import Float
from superweights.branch import Branch, Branching
from superweights.stream import give_back_memory
from superweights.subject import Objective
from superweights.subject.batch import UNSCORED
from superweights.subject.embedding import distances
from superweights.subject.facts import vocabulary_by_config

# How many bytes of logits are held at a time.
_LOGIT_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Effect:
    """What a branch changes, per row of the batch: the rise of the objective's loss and, in nats per token, the KL
    divergence, both `[rows]`."""

    loss: Tensor
    """The rise of the loss over the model as it is `[rows]`."""
    kl: Tensor | None
    """KL(model || branch) `[rows]`; None where it was not asked for."""


def measure(
    run: Branching, branches: Sequence[Branch], objective: Objective, loss_only: Collection[Branch] = ()
) -> tuple[Float[Tensor, " rows"], list[Effect]]:
    """The model's own loss per row, and each branch's effect, on the batch that `run` has passed over.

    Where tokens are predicted: the mean loss of those that are scored, and KL(model || branch) over the same
    predictions, left out (None) for `loss_only` branches. Where embeddings are compared the model's own loss is 0, a
    branch's 1 - cosine to it, and there is no KL.
    """
    assert run.batch is not None, "called after pass_over"
    if run.batch.labels is None:
        return _moved(run, branches, objective)
    rows, step = len(run.batch), max(1, _LOGIT_BYTES // (run.batch.length * _vocabulary(run) * 4))
    base_loss, losses, kls = [], [[] for _ in branches], [[] for _ in branches]
    for start in range(0, rows, step):
        some = slice(start, min(start + step, rows))
        labels = run.batch.take(some).labels
        assert labels is not None, "looked at above"
        base = _log_probabilities(run.logits(None, some), labels)
        own = _loss(base, labels)
        base_loss.append(own)
        weights = base.exp()
        for i, branch in enumerate(branches):
            other = _log_probabilities(run.logits(branch, some), labels)
            losses[i].append(_loss(other, labels) - own)
            if branch not in loss_only:
                kls[i].append(-_mean(torch.linalg.vecdot(weights, other.sub_(base)), labels))
            del other
            give_back_memory()
    effects = [
        Effect(torch.cat(loss), torch.cat(kl) if kl else None) for loss, kl in zip(losses, kls, strict=True)
    ]
    return torch.cat(base_loss), effects


def _moved(run: Branching, branches: Sequence[Branch], objective: Any) -> tuple[Tensor, list[Effect]]:
    """How far each branch's embedding of each row lies from the model's own."""
    assert run.batch is not None, "called after pass_over"
    every = slice(0, len(run.batch))
    own = objective.pool(run.logits(None, every))
    effects = [Effect(distances(own, objective.pool(run.logits(branch, every))), None) for branch in branches]
    return torch.zeros(len(own)), effects


def bars_of(embeddings: Tensor) -> Bars:
    """Where the verdicts begin for embeddings `[rows, width]` of different texts: `critical` at half the median
    distance (1 - cosine) between two of them, where a text is about to be taken for another, `partial` at a
    twentieth."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    apart = 1 - unit @ unit.T
    rows, columns = torch.triu_indices(len(unit), len(unit), 1)
    median = float(apart[rows, columns].median()) if len(unit) > 1 else 1.0
    return Bars(0.5 * median, 0.05 * median)


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


def _log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Of all positions up to the last that is scored, written over `logits`: a vocabulary is large, and copies of it
    are memory."""
    kept = logits[:, : _end(labels)].float()
    for row in kept:
        row.sub_(row.logsumexp(-1, keepdim=True))
    return kept


def _loss(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    asked = labels[:, : _end(labels), None].clamp_min(0)
    return -_mean(log_probabilities.gather(-1, asked)[..., 0], labels)


def _mean(values: Tensor, labels: Tensor) -> Tensor:
    """The mean of `values [rows, positions]` over the scored ones of each row, `[rows]`."""
    scored = labels[:, : values.shape[1]] != UNSCORED
    if bool(scored.all()):
        return values.mean(-1)
    return values.where(scored, 0.0).sum(-1) / scored.sum(-1).clamp_min(1)


def _end(labels: Tensor) -> int:
    """One past the last position that is scored in any row."""
    return int((labels != UNSCORED).any(0).nonzero().max()) + 1
