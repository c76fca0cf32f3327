"""Two models on the same tokens: how far their predictions are apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.record import Score
from superweights.score.error import mean_error
from superweights.score.head import Predictions, Variant, check_windows
from superweights.score.loss import (
    BATCH_SIZE,
    Progress,
    as_variant,
    batches,
    loss_change,
    perplexity_of,
    places,
)


@dataclass(frozen=True)
class Comparison:
    """What separates `other` from `base` on the same windows.

    `kl` is KL(base || other) of the next-token distributions in nats, `agreement` the share of positions
    where both put the same token first, `loss` the paired rise of the loss; the two perplexities stand
    beside them. All are means over the windows' positions but the last, with standard errors over windows.
    """

    base: Score
    other: Score
    loss: Score
    kl: Score
    agreement: Score


def compare(
    base: nn.Module | Variant,
    other: nn.Module | Variant,
    windows: Tensor,
    *,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """How `other` differs from `base` on `windows [n, length]`, in one pass of each.

    The two may be two models (quantized and original), or one model as it is and under a change
    (`Variant`). At most two pieces of logits stand in memory at a time.
    """
    ours, theirs = as_variant(base), as_variant(other)
    check_windows(ours.model, windows)
    check_windows(theirs.model, windows)
    rows = []
    for batch in batches(windows, batch_size, progress):
        numbers = torch.cat(list(_measure(ours, theirs, batch)), dim=1)
        rows.append(numbers.reshape(4, len(batch), -1).double().mean(2))
    before, after, kl, agreement = torch.cat(rows, dim=1)
    return Comparison(
        base=perplexity_of(before, seed=seed),
        other=perplexity_of(after, seed=seed),
        loss=loss_change(before, after),
        kl=_mean("KL(base || other)", kl, "nats per token"),
        agreement=_mean("top-1 agreement", agreement, "of positions"),
    )


def kl_and_agreement(
    base: nn.Module | Variant,
    other: nn.Module | Variant,
    windows: Tensor,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[Score, Score]:
    """KL(base || other) in nats per token, and the share of positions where both put the same token first."""
    found = compare(base, other, windows, batch_size=batch_size, progress=progress)
    return found.kl, found.agreement


def kl_nats(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of rows of log-probabilities `[..., vocabulary]`: `[...]`, nats, never negative.

    Summed as p (exp(d) - 1 - d) with d = log q - log p: every term is positive and small where the two
    distributions nearly agree, where the textbook sum of p log(p/q) is rounding noise around zero.
    """
    p, d = log_p.exp(), log_q - log_p
    near = p * (d.expm1() - d)
    far = log_q.exp() - p - p * d
    return torch.where(p > 0, torch.where(d.abs() < 1, near, far), log_q.exp()).sum(-1)


def _measure(ours: Variant, theirs: Variant, batch: Tensor) -> Iterator[Tensor]:
    """Loss before, loss after, KL and agreement of each scored token, piece by piece: `[4, tokens]`."""
    at = places(len(batch), batch.shape[1] - 1)
    targets = batch[:, 1:].reshape(-1)
    one, two = Predictions(ours, batch, at), Predictions(theirs, batch, at)
    for piece in one.pieces():
        log_p = functional.log_softmax(one.logits(piece), -1)
        log_q = functional.log_softmax(two.logits(piece).to(log_p.device), -1)
        target = targets[piece, None].to(log_p.device)
        before, after = (-log.gather(1, target)[:, 0] for log in (log_p, log_q))
        agreement = (log_p.argmax(-1) == log_q.argmax(-1)).float()
        yield torch.stack([before, after, kl_nats(log_p, log_q), agreement]).cpu()


def _mean(name: str, values: Tensor, unit: str) -> Score:
    return Score(name, values.mean().item(), unit, len(values), mean_error(values))
