"""Last words: does the model complete a passage with the very word that stands there?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.progress import Progress
from superweights.record import Score
from superweights.scoring.error import mean_error
from superweights.scoring.loss import as_variant, exp_of_mean
from superweights.scoring.predictions import Predictions, Variant, first_choices
from superweights.subject import check_windows, context_of
from superweights.subject.text import encode, without_last_word


@dataclass(frozen=True)
class LastWords:
    """For each text in order: whether the last word was predicted, and what it cost in nats."""

    correct: tuple[bool, ...]
    """Whether the last word was predicted."""
    nats: tuple[float, ...]
    """What it cost, in nats."""

    @property
    def accuracy(self) -> Score:
        """The share of texts whose last word is the model's greedy continuation."""
        hits = torch.tensor(self.correct, dtype=torch.float64)
        return Score("last-word accuracy", hits.mean().item(), "of texts", len(hits), mean_error(hits))

    @property
    def perplexity(self) -> Score:
        """exp of the mean cost of a last word: per word, not per token."""
        return exp_of_mean("last-word perplexity", torch.tensor(self.nats), "per word")


def predict_last_words(
    model: nn.Module | Variant,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 8,
    bos: bool = False,
    progress: Progress | None = None,
) -> LastWords:
    """Whether `model` completes each text with its own last word.

    A word counts when every one of its tokens, with the space before it, is the most likely one after the
    tokens before. Texts longer than the model's context lose their beginning. Texts run in batches of
    similar length, padded on the right, where a causal model does not look.

    Source: LAMBADA (Paperno et al. 2016) as the OpenAI variant scores it and lm-evaluation-harness's
    `lambada_openai` does: the text split at its last space, the whole tokenised at once.
    """
    variant = as_variant(model)
    limit = context_of(variant.model)
    pairs = [_split(tokenizer, text, bos) for text in texts]
    rows = [
        ((context + word)[-limit - 1 :] if limit else context + word, len(word)) for context, word in pairs
    ]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    found: dict[int, tuple[bool, float]] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        found |= zip(batch, _score_words(variant, [rows[i] for i in batch]), strict=True)
        if progress is not None:
            progress("last words", len(found), len(order))
    if not found:
        raise SuperweightsError("There are no texts to complete.", hint="give at least one text.")
    return LastWords(*(tuple(column) for column in zip(*(found[i] for i in range(len(rows))), strict=True)))


def pad_right(rows: Sequence[Sequence[int]]) -> Int[Tensor, "rows longest"]:
    """Rows of token ids as one tensor `[rows, longest]`, the rest filled with token 0."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def _split(tokenizer: Any, text: str, bos: bool) -> tuple[list[int], list[int]]:
    """The tokens before the last word and those of it, from one tokenisation of the whole."""
    context, word = without_last_word(text)
    start = encode(tokenizer, context)
    whole = encode(tokenizer, f"{context} {word}")
    first = [tokenizer.bos_token_id] if bos and tokenizer.bos_token_id is not None else []
    if not first + start or len(whole) <= len(start):
        raise SuperweightsError(
            f"The last word of {text[:60]!r} has no tokens of its own.",
            hint="give texts of two words or more.",
        )
    return first + whole[: len(start)], whole[len(start) :]


def _score_words(variant: Variant, rows: list[tuple[list[int], int]]) -> list[tuple[bool, float]]:
    """Whether each row's last tokens were all first choices, and their loss in nats."""
    ids = pad_right([tokens[:-1] for tokens, _ in rows])
    check_windows(variant.model, ids, shortest=1)
    places = [
        (row, len(tokens) - 1 - length + k)
        for row, (tokens, length) in enumerate(rows)
        for k in range(length)
    ]
    targets = torch.tensor([token for tokens, length in rows for token in tokens[-length:]])
    at = torch.tensor([row for row, _ in places]), torch.tensor([position for _, position in places])
    predictions = Predictions(variant, ids, at)
    hits, nats = torch.ones(len(rows), dtype=torch.bool), torch.zeros(len(rows), dtype=torch.float64)
    for piece in predictions.pieces():
        logits = predictions.logits(piece)
        target = targets[piece].to(logits.device)
        wrong = (first_choices(logits) != target).cpu()
        hits[at[0][piece][wrong]] = False
        nats.index_add_(
            0, at[0][piece], functional.cross_entropy(logits, target, reduction="none").double().cpu()
        )
    return list(zip(hits.tolist(), nats.tolist(), strict=True))
