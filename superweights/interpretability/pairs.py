"""The residual stream before every block, pair by pair: the mean of some function of the cosine between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Tokens of a batch that all pairs of layers are compared on.
_SAMPLED = 256


class Pairs:
    """Sums of `measure(cosines)`, element by element, over tokens, for each pair of the streams of a pass.

    Of each batch up to 256 tokens count, evenly spread; their states stand in memory until the batch ends.
    """

    def __init__(self, measure: Callable[[Tensor], Tensor]):
        self._measure = measure
        self._states: list[Tensor] = []
        self._sums: Tensor | None = None
        self._tokens = 0

    def begin(self) -> None:
        """A batch begins."""
        self._states = []

    def note(self, stream: Tensor) -> None:
        """The next stream `[B, T, d]` of the batch."""
        flat = stream.flatten(0, 1)
        chosen = torch.linspace(0, len(flat) - 1, min(_SAMPLED, len(flat))).round().long()
        unit = torch.nn.functional.normalize(flat[chosen.to(flat.device)].double(), dim=-1)
        self._states.append(unit)

    def end(self) -> None:
        """The batch has run: its pairs are added, and its states let go."""
        states, self._states = self._states, []
        if self._sums is None:
            self._sums = torch.zeros(len(states), len(states), dtype=torch.float64)
        of_token = torch.stack(states, 1)  # [n, streams, d]
        cosines = (of_token @ of_token.mT).clamp(-1, 1)
        self._sums += self._measure(cosines).sum(0).cpu()
        self._tokens += len(of_token)

    def means(self) -> tuple[tuple[float, ...], ...]:
        """`means[n - 1][l]`: of stream l and stream l + n, n from 1 up."""
        assert self._sums is not None, "no batch has ended"
        pairs = (self._sums / self._tokens).tolist()
        count = len(pairs)
        return tuple(tuple(pairs[start][start + n] for start in range(count - n)) for n in range(1, count))
