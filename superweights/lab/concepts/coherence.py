"""How much a sentence owes to those before it, by a language model that was not trained here.

Source: arXiv 2412.08821, section 2.4.1, mutual information: `(log p(s | the k before) - log p(s)) / |s|`, over all
sentences weighted by their length; positive is coherent (the paper's text prints the difference the other way round).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from superweights.errors import SuperweightsError

# Ids [1, T] to logits [1, T, V].
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MutualInformation:
    """What the sentences before say about a sentence."""

    nats_per_token: float
    """The gain in log-probability for each token of a sentence that has sentences before it."""
    tokens: int
    """How many tokens that is the mean of."""


def mutual_information(
    logits_of: Logits,
    tokenize: Callable[[str], Sequence[int]],
    documents: Sequence[Sequence[str]],
    k: int = 10,
) -> MutualInformation:
    """The mutual information of each sentence and the `k` before it, first sentences left out.

    Every sentence is the same tokens after the same newline both times. Raises `SuperweightsError` where no document
    has two sentences.
    """
    newline = list(tokenize("\n"))
    gain, count = 0.0, 0
    for document in documents:
        pieces = [list(tokenize(sentence)) for sentence in document]
        for place in range(1, len(pieces)):
            before = [t for piece in pieces[max(0, place - k) : place] for t in (*piece, *newline)]
            own = pieces[place]
            gain += _log_probability(logits_of, newline + before, own)
            gain -= _log_probability(logits_of, newline, own)
            count += len(own)
    if not count:
        raise SuperweightsError(
            "No sentence has another before it, so there is nothing that it could owe to one.",
            hint="give documents of two sentences or more.",
        )
    return MutualInformation(gain / count, count)


@torch.no_grad()
def _log_probability(logits_of: Logits, before: list[int], own: list[int]) -> float:
    """log p(own | before) in nats."""
    if not own:
        return 0.0
    ids = torch.tensor([before + own])
    logs = logits_of(ids)[0, len(before) - 1 : -1].float()
    return -float(functional.cross_entropy(logs, ids[0, len(before) :], reduction="sum"))


def of_transformers(model: Any, tokenizer: Any) -> tuple[Logits, Callable[[str], list[int]]]:
    """What `mutual_information` asks a transformers model and its tokenizer for."""
    return (
        lambda ids: model(ids).logits,
        lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
    )
