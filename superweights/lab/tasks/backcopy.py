"""Testbed A, Bigram-Backcopy: the smallest task in which sinks, value drain and residual peaks are known to arise.

Token 0 is BOS, token 1 a symbol that is no trigger, drawn evenly. After a trigger that follows another symbol comes
that symbol again (*copy*); every other token is drawn from its predecessor's row of a fixed table (*bigram*). A head
that copies has nothing to do at most queries, and has to look somewhere.

Source: Guo et al., arXiv 2410.13835, section 2 and their code. We differ in the table: theirs are the letters of
tiny-Shakespeare, ours the softmax of Gaussian logits, with triggers four times as likely and never after a trigger,
so that no data set is needed; and in sizes (63 symbols and BOS, 48 tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from superweights.errors import SuperweightsError

BOS = 0
# Rows are drawn this many at a time, each such block from a seed of its own: row n is the same whoever asks for it.
_BLOCK = 1024
_TRAINING, _HELD_OUT, _TABLE = 0, 1, 2
_LIKELIER = 4.0


@dataclass(frozen=True)
class BackCopy:
    """The task. `symbols` besides BOS (id 0), of which ids 1 to `triggers` are triggers; rows of `length` tokens.

    `seed` fixes the table and the order of the data: every arm and every model seed reads the same rows.
    """

    symbols: int = 63
    triggers: int = 3
    length: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 4 or self.triggers < 1 or self.symbols < self.triggers + 2:
            raise SuperweightsError(
                f"No task with {self.symbols} symbols, {self.triggers} triggers, {self.length} tokens.",
                hint="at least 4 tokens, 1 trigger, and 2 symbols that are none: BackCopy() has 63, 3 and 48.",
            )

    @property
    def vocabulary(self) -> int:
        """How many ids there are: the symbols and BOS."""
        return self.symbols + 1

    @property
    def tokenizer(self) -> Any:
        """None: its tokens are no text."""
        return None

    @cached_property
    def table(self) -> np.ndarray:
        """The chance of each symbol after each symbol, float64 `[symbols, symbols]`; symbol s has id s + 1."""
        logits = self._generator(_TABLE, 0).standard_normal((self.symbols, self.symbols))
        chances = np.exp(logits)
        chances[:, : self.triggers] *= _LIKELIER
        chances[: self.triggers, : self.triggers] = 0
        return chances / chances.sum(1, keepdims=True)

    def rows(self, start: int, stop: int) -> Tensor:
        """Training rows `start` to `stop`: ids `[stop - start, length]`, int64."""
        return self._rows(_TRAINING, start, stop)

    def held_out(self, count: int) -> Tensor:
        """The first `count` rows that no training sees: ids `[count, length]`, int64."""
        return self._rows(_HELD_OUT, 0, count)

    def roles(self, ids: Tensor) -> dict[str, Tensor]:
        """Where the token is to be copied (`copy`), and where it is drawn from the table (`bigram`): masks `[n, T]`.

        The first two positions are neither.
        """
        trigger = (ids >= 1) & (ids <= self.triggers)
        copy = torch.zeros_like(trigger)
        copy[:, 2:] = trigger[:, 1:-1] & ~trigger[:, :-2]
        bigram = ~copy
        bigram[:, :2] = False
        return {"copy": copy, "bigram": bigram}

    def floor_nats(self) -> float:
        """The loss of the best predictor there can be, mean over positions 1 to the last: nats per token.

        Closed form: `settled[a]` is the chance that the next token is drawn from row a, `after[a]` that a trigger has
        just followed a. What is copied costs nothing, what is drawn the entropy of its row.
        """
        entropy = -(self.table * np.log(np.where(self.table > 0, self.table, 1))).sum(1)
        total = np.log(self.symbols - self.triggers)
        for settled, _ in self.chances()[:-1]:
            total += float(settled @ entropy)
        return total / (self.length - 1)

    def chances(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For positions 1, 2, ...: the chance that symbol a stands there, and that a trigger does that follows a."""
        plain = self.table.copy()
        plain[:, : self.triggers] = 0
        triggered = self.table[:, : self.triggers].sum(1)
        settled = np.zeros(self.symbols)
        settled[self.triggers :] = 1 / (self.symbols - self.triggers)
        after = np.zeros(self.symbols)
        found = [(settled, after)]
        for _ in range(2, self.length):
            settled, after = settled @ plain + after, settled * triggered
            found.append((settled, after))
        return found

    def _generator(self, split: int, block: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, split, block))))

    def _rows(self, split: int, start: int, stop: int) -> Tensor:
        first, last = start // _BLOCK, max(start, stop - 1) // _BLOCK
        drawn = np.concatenate([self._block(split, number) for number in range(first, last + 1)])
        return torch.from_numpy(drawn[start - first * _BLOCK : stop - first * _BLOCK].copy())

    def _block(self, split: int, number: int) -> np.ndarray:
        held = self._blocks.get((split, number))
        if held is None:
            self._blocks.clear()  # training reads on: one block is enough
            held = self._blocks[split, number] = self._drawn(split, number)
        return held

    @cached_property
    def _blocks(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    @cached_property
    def _steps(self) -> np.ndarray:
        return self.table.cumsum(1)[:, :-1]

    def _drawn(self, split: int, number: int) -> np.ndarray:
        """One block of rows, all of them a position at a time."""
        generator = self._generator(split, number)
        ids = np.full((_BLOCK, self.length), BOS, dtype=np.int64)
        ids[:, 1] = generator.integers(self.triggers + 1, self.symbols + 1, _BLOCK)
        for t in range(2, self.length):
            before, last = ids[:, t - 2], ids[:, t - 1]
            luck = generator.random((_BLOCK, 1))
            drawn = 1 + (self._steps[last - 1] <= luck).sum(1)
            copied = (last <= self.triggers) & (before > self.triggers)
            ids[:, t] = np.where(copied, before, drawn)
        return ids
