"""Perplexity and its kin: what a model pays, in nats, for each token of a text."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.axes import Float, Int
from superweights.errors import SuperweightsError
from superweights.progress import Progress
from superweights.record import Score
from superweights.scoring.error import bootstrap_error, mean_error
from superweights.scoring.predictions import Predictions, Variant
from superweights.subject import Batch, check_next_token, check_windows, is_streamed, objective_of
from superweights.subject.objective import NATS, check_first

# Tokens that go through a model at once by default: enough to keep it busy; more where its weights are read
# again for every batch.
_TOKENS, TOKENS_STREAMED = 2048, 8192


def token_losses(
    model: nn.Module | Variant,
    windows: Int[Tensor, "n length"],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Float[Tensor, "n length-1"]:
    """The loss of every token but each window's first: `[n, length - 1]`, nats, float32, on the CPU.

    `windows [n, length]` are token ids, run `batch_size` at a time (default: about 2,000 tokens, 8,000 for a
    streamed model). `progress` is told of windows after each batch.
    Memory does not grow with the text: at most 32 MiB of logits stand at a time (128 MiB where a model has to make
    whole rows of them). The logarithm of the softmax is taken in float32, in one step.

    Raises `SuperweightsError` for a model whose objective is another one than the next token.
    """
    variant = as_variant(model)
    check_windows(variant.model, windows)
    check_next_token(variant.model)
    found = []
    for rows in batches(variant.model, windows, batch_size, progress):
        found.append(_losses(variant, objective_of(variant.model).batch(rows)).reshape(len(rows), -1))
    return torch.cat(found)


def loss_per_window(
    model: nn.Module | Variant,
    windows: Int[Tensor, "n length"],
    *,
    batch_size: int | None = None,
    first: int = 1,
    progress: Progress | None = None,
) -> Float[Tensor, " n"]:
    """The mean loss of each window by the model's objective: `[n]`, nats per scored token, float64.

    Of a decoder that is every token from position `first` on; `first` leaves the beginning of a window out of the
    mean: with windows that overlap, the tokens that have been scored already. Of other objectives it is what they ask
    (`subject.objective`).

    Raises `SuperweightsError` for a model without a head, which predicts nothing.
    """
    variant = as_variant(model)
    check_windows(variant.model, windows)
    objective = objective_of(variant.model)
    found = []
    for rows in batches(variant.model, windows, batch_size, progress):
        asked = objective.batch(rows, first)
        check_predicts(asked, variant.model)
        losses = _losses(variant, asked).double()
        even = losses.numel() % len(asked) == 0 and asked.is_even
        found.append(losses.reshape(len(asked), -1).mean(1) if even else asked.mean_by_row(losses))
    return torch.cat(found)


def _losses(variant: Variant, asked: Batch) -> Tensor:
    """The loss of each prediction that is scored, `[k]` in nats, row by row, on the CPU."""
    predictions = Predictions(variant, asked)
    losses = [
        functional.cross_entropy((logits := predictions.logits(piece)), asked.targets[piece].to(logits.device),
                                 reduction="none").cpu()
        for piece in predictions.pieces()
    ]  # fmt: skip
    return torch.cat(losses)


def check_predicts(asked: Batch, model: nn.Module) -> None:
    """Raise `SuperweightsError` for a batch of a model that predicts nothing."""
    if asked.labels is None:
        raise _headless(model)


def check_head(model: nn.Module) -> None:
    """Raise `SuperweightsError` for a model that predicts nothing."""
    if objective_of(model).unit != NATS:
        raise _headless(model)


def _headless(model: nn.Module) -> SuperweightsError:
    return SuperweightsError(
        f"{type(model).__name__} has no head: it predicts no token, so there is no loss here.",
        hint="find, score, ablate, scale and audit measure how far its embedding moves.",
    )


def perplexity(
    model: nn.Module | Variant,
    windows: Int[Tensor, "n length"],
    *,
    batch_size: int | None = None,
    first: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Score:
    """The perplexity of `model` on `windows [n, length]`: exp of the mean loss over positions `first` and on.

    The standard error is that of a seeded block bootstrap over the windows, by the delta method.
    """
    means = loss_per_window(model, windows, batch_size=batch_size, first=first, progress=progress)
    return perplexity_of(means, seed=seed)


def perplexity_of(means: Float[Tensor, " n"], *, seed: int = 0) -> Score:
    """The perplexity of windows whose mean losses are `means [n]`, all of one length."""
    return exp_of_mean("perplexity", means, "per token", seed)


def exp_of_mean(name: str, nats: Float[Tensor, " n"], unit: str, seed: int = 0) -> Score:
    """exp of the mean of `nats [n]`, with the bootstrap error of the mean carried over by the delta method.

    The spread of the resampled exponentials themselves would be ruled by the few worst resamples, and says
    little for broken models; the relative error of a perplexity is the absolute one of its loss.
    """
    value = nats.double().mean().exp().item()
    error = bootstrap_error(nats[:, None], lambda resampled: resampled[:, 0], seed)
    if error is None or not math.isfinite(value * error):
        return Score(name, value, unit, len(nats))
    return Score(name, value, unit, len(nats), value * error)


def loss_change(base: Float[Tensor, " n"], edited: Float[Tensor, " n"]) -> Score:
    """How much the loss rises from `base` to `edited`, window by window: nats per token.

    Both are `loss_per_window [n]` of the same windows. The difference is paired, so that what makes one
    text harder than another drops out of the standard error.
    """
    if base.shape != edited.shape:
        raise SuperweightsError(
            f"Losses of {len(base)} and of {len(edited)} windows cannot be paired.",
            hint="score both models on the same windows.",
        )
    change = edited.double() - base.double()
    return Score("loss change", change.mean().item(), "nats/token", len(change), mean_error(change))


def bits_per_byte(
    losses: Float[Tensor, "n predicted"], nbytes: Int[Tensor, "n length"], *, first: int = 1, seed: int = 0
) -> Score:
    """Bits that the model needs for one UTF-8 byte of the text: comparable between tokenizers.

    `losses [n, length - 1]` are `token_losses`, `nbytes [n, length]` the text's `window_bytes`. The standard
    error is that of a seeded block bootstrap over the windows, of the ratio itself.
    """
    bits = _from(losses, first).double().sum(1) / math.log(2)
    size = nbytes[:, first:].double().sum(1)
    error = bootstrap_error(torch.stack([bits, size], 1), lambda means: means[:, 0] / means[:, 1], seed)
    return Score("bits per byte", (bits.sum() / size.sum()).item(), "bits per byte", len(bits), error)


def as_variant(model: nn.Module | Variant) -> Variant:
    """`model` as it is, unless it says how it is to be changed."""
    return model if isinstance(model, Variant) else Variant(model)


def batches(model: nn.Module, rows: Tensor, size: int | None, progress: Progress | None) -> Iterator[Tensor]:
    """`rows` in batches, with `progress` told after each; `size` None suits the model."""
    if size is None:
        streamed = is_streamed(model)
        size = max(1, (TOKENS_STREAMED if streamed else _TOKENS) // rows.shape[1])
    if size < 1:
        raise SuperweightsError(f"A batch of {size} is no batch.", hint="use --batch-size 1 or more.")
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
        if progress is not None:
            progress("scoring", min(start + size, len(rows)), len(rows))


def _from(losses: Tensor, first: int) -> Tensor:
    """The losses of positions `first` and on; position 0 has none."""
    check_first(first, losses.shape[1] + 1)
    return losses[:, first - 1 :]
