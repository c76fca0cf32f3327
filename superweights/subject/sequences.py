"""Sequence to sequence: an encoder reads one sequence, and the decoder predicts another, teacher-forced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.subject.batch import UNSCORED, Batch
from superweights.subject.objective import NATS, NO_FRAME, Frame, check_first

# A span-corrupting model has 15 % of its text taken out, in spans of three tokens on average. Source: T5, arXiv
# 1910.10683, section 3.1.4.
_SHARE, _SPAN = 0.15, 3


@dataclass(frozen=True)
class Seq2Seq:
    """The decoder is given the right answer so far and predicts the next token of it: T5, BART, NLLB and their kin.

    With sentinels (`sentinels`, the ids that stand for what was taken out) the encoder reads a text with spans missing,
    and the decoder fills them in, as T5 was trained; without, the decoder is to give back the text that the encoder
    read, as BART was. `start` is what the decoder's sequence begins with.
    """

    start: tuple[int, ...]
    frame: Frame = NO_FRAME
    """What stands before and after a text."""
    sentinels: tuple[int, ...] = ()
    name: str = "seq2seq"
    """The word for it."""
    unit: str = NATS
    """Of its loss."""

    def batch(self, ids: Tensor, first: int = 1, whole: bool = False) -> Batch:
        """The encoder's sequence of each row, and the decoder's beside it; all of the latter is scored."""
        check_first(first, ids.shape[1])
        source, target = self._spans(ids) if self.sentinels else (self.frame.around(ids),) * 2
        start = target.new_tensor(self.start).expand(len(target), -1)
        given = torch.cat([start, target[:, :-1]], 1)
        labels = torch.cat([torch.full_like(start[:, 1:], UNSCORED), target], 1)
        return Batch({"input_ids": source, "decoder_input_ids": given}, labels)

    def _spans(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The text without some evenly spaced spans, and the spans: each behind its sentinel."""
        length = ids.shape[1]
        count = max(1, min(round(_SHARE * length / _SPAN), len(self.sentinels), length // (_SPAN + 1)))
        starts = [(i + 1) * length // (count + 1) - _SPAN // 2 for i in range(count)]
        source, target, at = [], [], 0
        for sentinel, start in zip(self.sentinels, starts, strict=False):
            stop = min(start + _SPAN, length)
            mark = ids.new_full((len(ids), 1), sentinel)
            source += [ids[:, at:start], mark]
            target += [mark, ids[:, start:stop]]
            at = stop
        end = ids.new_tensor(self.frame.after).expand(len(ids), -1)
        return torch.cat([*source, ids[:, at:], end], 1), torch.cat([*target, end], 1)
