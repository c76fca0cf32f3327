"""Two models on the same tokens: how far their predictions are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.axes import Float, Int
from superweights.progress import Progress
from superweights.record import Score
from superweights.scoring.embeddings import embeddings, moved
from superweights.scoring.error import mean_error
from superweights.scoring.loss import (
    as_variant,
    batches,
    check_head,
    check_predicts,
    loss_change,
    perplexity_of,
)
from superweights.scoring.predictions import Predictions, Variant, first_choices
from superweights.subject import check_windows, objective_of
from superweights.subject.objective import COSINE


@dataclass(frozen=True)
class Comparison:
    """What separates `other` from `base` on the same windows.

    `kl` is KL(base || other) of the next-token distributions in nats, `agreement` the share of positions
    where both put the same token first, `loss` the paired rise of the loss; the two perplexities stand
    beside them. All are means over the same predictions, with standard errors over windows.
    `base_losses` and `other_losses` are the windows' own means, in nats per token.

    A model without a head predicts nothing: `base`, `other` and `kl` are None, `loss` is how far its embedding of a
    window has moved (1 - cosine), `agreement` the share of windows whose nearest neighbour is the same, and the losses
    are the windows' distances.
    """

    base: Score | None
    other: Score | None
    loss: Score
    kl: Score | None
    agreement: Score
    base_losses: tuple[float, ...]
    other_losses: tuple[float, ...]


def compare(
    base: nn.Module | Variant,
    other: nn.Module | Variant,
    windows: Int[Tensor, "n length"],
    *,
    batch_size: int | None = None,
    first: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """How `other` differs from `base` on the tokens from position `first` of `windows [n, length]`, in one pass.

    The two may be two models (quantized and original), or one model as it is and under a change
    (`Variant`). At most two pieces of logits stand in memory at a time.
    """
    return compare_all(
        base, [other], windows, batch_size=batch_size, first=first, seed=seed, progress=progress
    )[0]


def compare_all(
    base: nn.Module | Variant,
    others: Sequence[nn.Module | Variant],
    windows: Int[Tensor, "n length"],
    *,
    batch_size: int | None = None,
    first: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Comparison]:
    """How each of `others` differs from `base`, which runs once for all of them. Otherwise as `compare`."""
    variants = [as_variant(model) for model in (base, *others)]
    for variant in variants:
        check_windows(variant.model, windows)
    if objective_of(variants[0].model).unit == COSINE:
        return _compare_embeddings(variants, windows, batch_size, progress)
    found: list[list[Tensor]] = [[] for _ in others]
    for batch in batches(variants[0].model, windows, batch_size, progress):
        for kept, numbers in zip(found, numbers_by_row(variants, batch, first), strict=True):
            kept.append(numbers)
    return [_comparison(torch.cat(rows, dim=1), seed) for rows in found]


def kl_and_agreement(
    base: nn.Module | Variant,
    other: nn.Module | Variant,
    windows: Int[Tensor, "n length"],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Score, Score]:
    """KL(base || other) in nats per token, and the share of positions where both put the same token first."""
    check_head(as_variant(base).model)
    found = compare(base, other, windows, batch_size=batch_size, progress=progress)
    assert found.kl is not None, "it predicts"
    return found.kl, found.agreement


def kl_nats(
    log_p: Float[Tensor, "*rows vocabulary"], log_q: Float[Tensor, "*rows vocabulary"]
) -> Float[Tensor, "*rows"]:
    """KL(p || q) of rows of log-probabilities `[..., vocabulary]`: `[...]`, nats, never negative.

    Summed as p (exp(d) - 1 - d) with d = log q - log p: every term is positive and small where the two
    distributions nearly agree, where the textbook sum of p log(p/q) is rounding noise around zero.
    """
    p, d = log_p.exp(), log_q - log_p
    near = p * (d.expm1() - d)
    far = log_q.exp() - p - p * d
    return torch.where(p > 0, torch.where(d.abs() < 1, near, far), log_q.exp()).sum(-1)


# So many numbers of a distribution stay in a processor's cache from one step to the next.
_CACHED = 1 << 19
# Below this log-probability, p exp(d) may leave the range of float32.
_FAR = -80.0


def kl_of_logits(log_p: Tensor, logits: Tensor) -> Tensor:
    """`kl_nats` of log-probabilities `log_p [tokens, vocabulary]` and of what `logits` of the same shape predict.

    A few tokens at a time: what does not leave the cache is several times as fast.
    """
    step = max(1, _CACHED // log_p.shape[-1])
    found = []
    for start in range(0, len(log_p), step):
        ours, theirs = log_p[start : start + step], logits[start : start + step].to(log_p.device).float()
        found.append(_kl_in_cache(ours, functional.log_softmax(theirs, -1)))
    return torch.cat(found)


def _kl_in_cache(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`kl_nats`, written over `log_q` where every probability is within the range of float32."""
    if log_p.min() < _FAR:
        return kl_nats(log_p, log_q)
    d = log_q.sub_(log_p)
    return d.expm1().sub_(d).mul_(log_p.exp()).sum(-1)


def _compare_embeddings(
    variants: list[Variant], windows: Tensor, batch_size: int | None, progress: Progress | None
) -> list[Comparison]:
    """As `compare_all`, of models without a head; neighbours are looked for among all windows."""
    goal = objective_of(variants[0].model)
    held: list[list[Tensor]] = [[] for _ in variants]
    for rows in batches(variants[0].model, windows, batch_size, progress):
        batch = goal.batch(rows)
        for kept, variant in zip(held, variants, strict=True):
            kept.append(embeddings(variant, batch))
    base, *others = (torch.cat(kept) for kept in held)
    found = []
    for other in others:
        apart, same = moved(base, other)
        change = _mean("embedding change", apart, COSINE)
        kept = tuple(apart.tolist())
        agreement = _mean("same nearest neighbour", same, "of windows")
        found.append(Comparison(None, None, change, None, agreement, (0.0,) * len(kept), kept))
    return found


def numbers_by_row(variants: list[Variant], batch: Tensor, first: int = 1) -> list[Tensor]:
    """Per variant but the first: loss before and after, KL and agreement, means over each row, `[4, rows]`."""
    asked = objective_of(variants[0].model).batch(batch, first)
    check_predicts(asked, variants[0].model)
    base, *others = (Predictions(variant, asked) for variant in variants)
    found: list[list[Tensor]] = [[] for _ in others]
    for piece in base.pieces():
        log_p = functional.log_softmax(base.logits(piece), -1)
        target = asked.targets[piece, None].to(log_p.device)
        for kept, other in zip(found, others, strict=True):
            kept.append(numbers_by_token(log_p, other.logits(piece), target))
    each = [torch.cat(kept, dim=1).double() for kept in found]
    if asked.is_even:
        return [numbers.reshape(4, len(asked), -1).mean(2) for numbers in each]
    return [torch.stack([asked.mean_by_row(number) for number in numbers]) for numbers in each]


def numbers_by_token(log_p: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Loss before, loss after, KL and agreement `[4, tokens]`, a few tokens at a time (see `kl_of_logits`)."""
    step = max(1, _CACHED // log_p.shape[-1])
    found = []
    for start in range(0, len(log_p), step):
        here = slice(start, start + step)
        ours, theirs = log_p[here], logits[here].to(log_p.device)
        agreement = (first_choices(ours) == first_choices(theirs)).float()
        log_q = functional.log_softmax(theirs, -1)
        before, after = (-log.gather(1, target[here])[:, 0] for log in (ours, log_q))
        found.append(torch.stack([before, after, _kl_in_cache(ours, log_q), agreement]))
    return torch.cat(found, dim=1).cpu()


def _comparison(numbers: Tensor, seed: int) -> Comparison:
    before, after, kl, agreement = numbers
    return Comparison(
        base=perplexity_of(before, seed=seed),
        other=perplexity_of(after, seed=seed),
        loss=loss_change(before, after),
        kl=_mean("KL(base || other)", kl, "nats/token"),
        agreement=_mean("top-1 agreement", agreement, "of positions"),
        base_losses=tuple(before.tolist()),
        other_losses=tuple(after.tolist()),
    )


def _mean(name: str, values: Tensor, unit: str) -> Score:
    return Score(name, values.mean().item(), unit, len(values), mean_error(values))
