"""Masked words: some tokens of a text are hidden, and the model says which they were."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.subject.batch import UNSCORED, Batch
from superweights.subject.objective import NATS, NO_FRAME, Frame, check_first

# So many tokens of a window are hidden, and at least one. Source: BERT, arXiv 1810.04805, section 3.1, where a tenth
# of them is replaced by random words and a tenth left as it is; here all are hidden.
SHARE = 0.15


@dataclass(frozen=True)
class Masked:
    """Hidden tokens are predicted from those on both sides: BERT and its kin.

    `mask` is the id that hides a token. Which are hidden depends on `seed` and on the window's own tokens, so that the
    same window is asked the same wherever it stands.
    """

    mask: int
    frame: Frame = NO_FRAME
    """What stands before and after a text."""
    seed: int = 0
    name: str = "masked"
    """The word for it."""
    unit: str = NATS
    """Of its loss."""

    def batch(self, ids: Tensor, first: int = 1, whole: bool = False) -> Batch:
        """The rows between their special tokens, 15 % of the tokens hidden; scored are the hidden ones."""
        check_first(first, ids.shape[1])
        framed = self.frame.around(ids)
        hidden = torch.stack([self._hidden(row, first) for row in framed])
        return Batch(
            {"input_ids": framed.masked_fill(hidden, self.mask)}, framed.masked_fill(~hidden, UNSCORED)
        )

    def _hidden(self, row: Tensor, first: int) -> Tensor:
        """Which tokens of a row are hidden: `[length]`, at least one of them."""
        generator = torch.Generator().manual_seed(_seed_of(row, self.seed))
        order = torch.rand(len(row), generator=generator).to(row.device)
        order[self.frame.covers(row)] = 2.0
        if bool((order[first:] < 1).any()):
            order[:first] = 2.0
        count = max(1, round(SHARE * int((order < 1).sum())))
        hidden = torch.zeros_like(row, dtype=torch.bool)
        hidden[order.topk(count, largest=False).indices] = True
        return hidden


def _seed_of(row: Tensor, seed: int) -> int:
    """A seed that follows from the row's tokens."""
    found = seed
    for token in row.tolist():
        found = (found * 1_000_003 + token + 1) % (2**61 - 1)
    return found
