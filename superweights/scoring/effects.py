"""What edits do to a model: several rows of them judged on one text, in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from superweights.editing import Change, Edit, edited
from superweights.findings import Continuation, EditMade, EffectRow, Effects, LastWordsRow, Side, TokenShift
from superweights.progress import Progress, labelled, silent
from superweights.record import Score
from superweights.scoring.compare import Comparison, compare_all
from superweights.scoring.generate import continue_beside
from superweights.scoring.loss import bits_per_byte, loss_per_window, perplexity_of
from superweights.scoring.predictions import Variant
from superweights.scoring.shift import token_shift
from superweights.scoring.words import predict_last_words
from superweights.subject import NextToken, Reading, check_next_token, objective_of, resolve_bos
from superweights.subject.objective import COSINE
from superweights.subject.text import encode, read_passages, window_bytes, without_last_word

# A row: what is changed, in words, and the edits that change it together.
Rows = Sequence[tuple[str, Sequence[Edit]]]


@dataclass(frozen=True)
class Passages:
    """Passages whose last words are asked for."""

    file: Path | str
    """JSON lines, each an object with a string `text`."""
    count: int | None = None
    """The first so many; None: all."""


@dataclass(frozen=True)
class Writing:
    """What else to look at beside the scores."""

    prompts: Sequence[str] = ()
    """Each is continued before and after the edits."""
    new_tokens: int = 30
    """Tokens to write after each prompt."""
    temperature: float = 0.0
    """0: the likeliest token; else sample."""
    shift: bool = False
    """Whether to follow which tokens gain and lose probability."""


def effects_of(
    model: nn.Module,
    tokenizer: Any,
    rows: Rows,
    reading: Reading,
    *,
    passages: Passages | None = None,
    writing: Writing | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Effects:
    """What `model` scores on the text, as it is and under the edits of each row.

    Every edit is tried before anything is measured. Raises `SuperweightsError` for weights that are not there, and
    as `Reading.cut`.
    """
    if passages is not None or writing not in (None, Writing()):
        check_next_token(model)
    scoring = _Scoring(model, tokenizer, rows, reading, seed, progress)
    read = read_passages(passages.file, passages.count) if passages is not None else ()
    base, effects = scoring.on_text()
    writing = writing or Writing()
    return Effects(
        conditions=_conditions(model, tokenizer, reading, scoring.scored),
        base=base,
        rows=effects,
        last_words=scoring.last_words(read) if read else None,
        continuations=scoring.continuations(writing) if writing.prompts else None,
        shift=scoring.shift(read) if writing.shift else None,
    )


class _Scoring:
    """One model, one text, several rows of edits."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, rows: Rows, reading: Reading, seed: int, progress: Progress
    ):
        self._model, self._tokenizer, self._reading = model, tokenizer, reading
        self._rows, self._seed, self._progress = rows, seed, progress
        self._bos = resolve_bos(tokenizer, reading.bos)
        self._says_all = isinstance(objective_of(model), NextToken)
        self._changes: list[list[Change]] = [[] for _ in rows]
        self._windows = reading.cut(tokenizer)
        self._variants = [Variant(model, self._change(i, edits)) for i, (_, edits) in enumerate(rows)]

    def _change(self, row: int, edits: Sequence[Edit]) -> Callable:
        """The row's edits as a context; tried once at once, so that a wrong address costs no waiting."""

        @contextmanager
        def change() -> Iterator[None]:
            with edited(self._model, edits, verify=False) as made:
                yield
            if len(made) >= len(self._changes[row]):  # those of streamed blocks come with a forward pass
                self._changes[row] = list(made)

        with edited(self._model, edits, verify=True) as made:
            self._changes[row] = list(made)
        return change

    @property
    def scored(self) -> int:
        """How many predictions are scored in all windows; 0 where an embedding is compared."""
        asked = objective_of(self._model).batch(self._windows, self._reading.first)
        return 0 if asked.labels is None else len(asked.targets)

    def on_text(self) -> tuple[Side, tuple[EffectRow, ...]]:
        """The base's own numbers, and every row's difference from it."""
        how: dict[str, Any] = {"batch_size": self._reading.batch_size, "first": self._reading.first}
        if not self._rows and objective_of(self._model).unit == COSINE:
            return Side(None), ()
        if not self._rows:
            losses = loss_per_window(self._model, self._windows, progress=self._progress, **how)
            return self._side(perplexity_of(losses, seed=self._seed), losses.tolist()), ()
        found = compare_all(
            self._model, self._variants, self._windows, seed=self._seed, progress=self._progress, **how
        )
        rows = tuple(self._row(i, each) for i, each in enumerate(found))
        return self._side(found[0].base, found[0].base_losses), rows

    def _row(self, i: int, found: Comparison) -> EffectRow:
        name, edits = self._rows[i]
        side = self._side(found.other, found.other_losses)
        changes = [
            {"address": str(c.edit.address), "before": c.before, "after": c.after} for c in self._changes[i]
        ]
        return EffectRow(
            name,
            tuple(EditMade(**edit.to_json()) for edit in edits),
            tuple(changes),
            found.other,
            side.bits_per_byte,
            side.losses,
            found.loss,
            found.kl,
            found.agreement,
        )

    def last_words(self, passages: Sequence[str]) -> tuple[LastWordsRow, ...]:
        """Last-word accuracy and perplexity of the base and of each row."""
        named = [("base", Variant(self._model)), *zip(self._names(), self._variants, strict=True)]
        found = []
        for name, variant in named:
            words = predict_last_words(
                variant, self._tokenizer, passages, bos=self._bos, progress=self._progress
            )
            found.append(LastWordsRow(name, words.accuracy, words.perplexity))
        return tuple(found)

    def continuations(self, writing: Writing) -> tuple[Continuation, ...]:
        """What each row's model writes after each prompt, beside what the base writes."""
        manner = {"new_tokens": writing.new_tokens, "temperature": writing.temperature, "bos": self._bos}
        return tuple(
            replace(one, name=name)
            for name, variant in zip(self._names(), self._variants, strict=True)
            for one in continue_beside(
                self._model, variant, self._tokenizer, writing.prompts, seed=self._seed, **manner
            )
        )

    def shift(self, passages: Sequence[str]) -> tuple[TokenShift, ...]:
        """Which tokens gain and lose in each row, after the passages without their last words, or the windows."""
        prompts: Any = self._windows[:, :64]
        if passages:
            prompts = [encode(self._tokenizer, without_last_word(text)[0]) for text in passages]
        shifts = [
            token_shift(
                self._model, variant, self._tokenizer, prompts, progress=labelled(self._progress, "shift")
            )
            for variant in self._variants
        ]
        return tuple(replace(each, name=name) for name, each in zip(self._names(), shifts, strict=True))

    def _side(self, perplexity: Score | None, losses: Sequence[float]) -> Side:
        """One model's own numbers on the text; bits per byte where every token is scored."""
        found = None
        if self._says_all and getattr(self._tokenizer, "is_fast", False):
            r = self._reading
            nbytes = window_bytes(self._tokenizer, r.read(), r.window, r.windows, r.stride, self._bos)
            per_token = torch.tensor(losses)[:, None].expand(-1, r.window - 1)
            found = bits_per_byte(per_token, nbytes, first=r.first, seed=self._seed)
        return Side(perplexity, found, tuple(losses))

    def _names(self) -> list[str]:
        return [name for name, _ in self._rows]


def _conditions(model: Any, tokenizer: Any, reading: Reading, scored: int) -> dict[str, Any]:
    return {
        **reading.conditions(tokenizer),
        "stride": reading.stride or reading.window,
        "objective": objective_of(model).name,
        "tokens_scored": scored,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }
