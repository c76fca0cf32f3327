"""What small words are worth: the loss on an ending, after stop words, punctuation or articles were taken out of
what stands before it.

Source: LLM-Microscope (arXiv 2502.15007, section 4.2): without them MMLU and BABILong fall, for Llama-3-8B 0.430 to
0.365 (stop words), 0.419 (punctuation), 0.415 (articles). Where we differ: no benchmark is needed, because the
ending is the text's own and stays as it was, token for token, so all rows predict the same tokens; and beside each
removal stands one of as many tokens drawn at random, the control that the paper lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.interpretability.stopword_ablation.word_classes import members, remove, remove_random
from superweights.interpretability.study import Study
from superweights.interpretability.words_of import number
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score
from superweights.scoring.error import mean_error
from superweights.scoring.loss import loss_change
from superweights.scoring.predictions import first_choices
from superweights.subject.text import encode

# The share of each window that is its ending, and random draws for each control.
_ENDING, _DRAWS = 0.25, 3
ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("stop words", ("stop words",)),
    ("punctuation", ("punctuation",)),
    ("both", ("stop words", "punctuation")),
    ("articles", ("articles",)),
)


@dataclass(frozen=True)
class RemovalRow:
    """One class removed: tokens taken out of a window (mean), the rise of the ending's loss and of its accuracy,
    the same for as many tokens at random, and the paired difference of the two losses.
    """

    name: str
    """The class of words."""
    tokens_gone: float
    """Taken out of a window, mean."""
    loss: Score
    accuracy: Score
    random_tokens_gone: float
    """The same for random ones."""
    random_loss: Score
    """Rise of the loss without random ones."""
    random_accuracy: Score
    """Rise of the accuracy without random ones."""
    beyond_random: Score
    """The rise of the loss less that without random ones, paired."""


@dataclass(frozen=True)
class WordRemoval:
    """The ending's loss and accuracy with the text as it is, and what each removal changes."""

    loss: Score
    accuracy: Score
    rows: tuple[RemovalRow, ...]
    """One for each class."""
    window: int
    """Tokens in a window."""
    ending: int

    def scores(self) -> tuple[Score, ...]:
        return (self.loss, self.accuracy, *(each.beyond_random for each in self.rows))

    def sheets(self) -> tuple[Sheet, ...]:
        titles = ("taken out", "tokens", "loss, nats", "accuracy", "at random: tokens", "loss, nats", "accuracy",
                  "loss beyond random")  # fmt: skip
        rows = [
            (e.name, e.tokens_gone, number(e.loss), number(e.accuracy), e.random_tokens_gone, number(e.random_loss),
             number(e.random_accuracy), number(e.beyond_random))
            for e in self.rows
        ]  # fmt: skip
        note = (
            f"The last {self.ending} tokens of each window of {self.window} stay; as it is: {self.loss}, "
            f"{self.accuracy}. Changes are paired, errors over windows. "
            "The paper: MMLU and BABILong of 7B and 8B models."
        )
        return (Sheet("words taken out of the context", titles, rows, note),)

    def panels(self) -> tuple[Panel, ...]:
        names = {float(number): each.name for number, each in enumerate(self.rows)}
        series = [
            Series("taken out", [(n, e.loss.value) for n, e in enumerate(self.rows)],
                   [e.loss.standard_error for e in self.rows]),
            Series("as many tokens at random", [(n, e.random_loss.value) for n, e in enumerate(self.rows)],
                   [e.random_loss.standard_error for e in self.rows], dashed=True),
        ]  # fmt: skip
        return (
            line_chart("words taken out", "class", "rise of the ending's loss, nats", series, marks=names),
        )


@dataclass(frozen=True, eq=False)
class Endings:
    """Losses and accuracies of endings, means over each one's tokens: `[n]` each."""

    losses: Tensor
    """Nats per token."""
    right: Tensor
    """Shares of tokens that are predicted."""


def read_endings(
    model: nn.Module, contexts: Sequence[Sequence[int]], endings: Int[Tensor, "n k"], batch_size: int = 8
) -> Endings:
    """How `model` predicts `endings [n, k]`, each after its own context of token ids (one or more).

    Texts run in batches, padded on the right, where a causal model does not look.
    """
    losses, right = [], []
    device = Body.of(model).device
    for start in range(0, len(contexts), batch_size):
        rows = [torch.tensor([*c]) for c in contexts[start : start + batch_size]]
        ends = endings[start : start + batch_size]
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.cat([row, end[:-1]]) for row, end in zip(rows, ends, strict=True)], batch_first=True
        )
        with torch.no_grad():
            logits = model(input_ids=ids.to(device), use_cache=False).logits
        for row, end, made in zip(rows, ends, logits, strict=True):
            ours = made[len(row) - 1 : len(row) - 1 + len(end)].float()
            target = end.to(ours.device)
            losses.append(functional.cross_entropy(ours, target).double().cpu())
            right.append((first_choices(ours) == target).double().mean().cpu())
    return Endings(torch.stack(losses), torch.stack(right))


def investigate(study: Study) -> WordRemoval:
    """The question for `study`. Raises `SuperweightsError` for windows too short to have an ending, for one
    window, and for a model without tokenizer.
    """
    n, window = study.ids.shape
    ending = max(2, round(window * _ENDING))
    if n < 2 or window < 8 or study.tokenizer is None:
        raise SuperweightsError(
            "Removing words needs a tokenizer and two windows of 8 tokens or more.",
            hint="use longer windows.",
        )
    endings = study.ids[:, -ending:]
    texts = [study.tokenizer.decode(row, skip_special_tokens=True) for row in study.ids[:, :-ending].tolist()]
    reading = _Reading(study, endings)
    base = reading.of(texts)
    rows = []
    for done, (name, classes) in enumerate(ROWS):
        study.progress("removing", done, len(ROWS))
        rows.append(_row(reading, base, name, classes, texts, study.seed))
    return WordRemoval(
        Score("loss of the ending", base.losses.mean().item(), "nats/token", n, mean_error(base.losses)),
        Score("accuracy on the ending", base.right.mean().item(), "of tokens", n, mean_error(base.right)),
        tuple(rows),
        window,
        ending,
    )


class _Reading:
    """Contexts in words to endings read."""

    def __init__(self, study: Study, endings: Tensor):
        self._study, self._endings = study, endings
        tokenizer: Any = study.tokenizer
        # A context that was emptied still needs a token to predict from.
        self._start = [tokenizer.bos_token_id] if study.bos else []
        self._alone = next(t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if t is not None)

    def tokens(self, text: str) -> list[int]:
        return [*self._start, *encode(self._study.tokenizer, text)] or [self._alone]

    def count(self, text: str) -> int:
        return len(encode(self._study.tokenizer, text))

    def of(self, texts: Sequence[str]) -> Endings:
        size = self._study.batch_size or max(1, 1024 // self._study.ids.shape[1])
        return read_endings(self._study.model, list(map(self.tokens, texts)), self._endings, size)


def _row(
    reading: _Reading, base: Endings, name: str, classes: Sequence[str], texts: Sequence[str], seed: int
) -> RemovalRow:
    cut = [remove(text, classes) if members(text, classes) else text for text in texts]
    gone = [reading.count(text) - reading.count(shorter) for text, shorter in zip(texts, cut, strict=True)]
    real = reading.of(cut)
    draws, random_gone = [], 0.0
    for draw in range(_DRAWS):
        control = [
            remove_random(text, tokens, reading.count, seed * 7919 + draw * 1009 + number)
            for number, (text, tokens) in enumerate(zip(texts, gone, strict=True))
        ]
        random_gone += sum(reading.count(t) - reading.count(c) for t, c in zip(texts, control, strict=True))
        draws.append(reading.of(control))
    losses = torch.stack([each.losses for each in draws]).mean(0)
    right = torch.stack([each.right for each in draws]).mean(0)
    return RemovalRow(
        name,
        sum(gone) / len(gone),
        loss_change(base.losses, real.losses),
        _change("accuracy", base.right, real.right),
        random_gone / len(texts) / _DRAWS,
        loss_change(base.losses, losses),
        _change("accuracy", base.right, right),
        _change(f"{name}: loss beyond random", losses, real.losses, "nats/token"),
    )


def _change(name: str, before: Tensor, after: Tensor, unit: str = "of tokens") -> Score:
    change = after - before
    return Score(name, change.mean().item(), unit, len(change), mean_error(change))
