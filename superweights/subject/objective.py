"""What a model is trained to predict: how tokens become batch and labels, one class for each objective.

Which class of transformers' opens the model for which objective is said in `subject.choosing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.subject.batch import UNSCORED, Batch

NATS, COSINE = "nats/token", "1 - cosine"


class Objective(Protocol):
    """What is predicted of a row of tokens."""

    @property
    def name(self) -> str:
        """The word for it: `next-token`, `masked`, `embedding`, `seq2seq`, `image`."""
        ...

    @property
    def unit(self) -> str:
        """The unit of its loss."""
        ...

    def batch(self, ids: Tensor, first: int = 1, whole: bool = False) -> Batch:
        """The batch of the token ids `[rows, length]`, scored from position `first` of each row.

        `whole` keeps what no score needs but the model reads (a decoder's last token). Raises `SuperweightsError`
        unless position `first` can be predicted and lies inside the row.
        """
        ...


@dataclass(frozen=True)
class NextToken:
    """Each token is predicted from those before it: decoder language models."""

    name: str = "next-token"
    """The word for it."""
    unit: str = NATS
    """Of its loss."""

    def batch(self, ids: Tensor, first: int = 1, whole: bool = False) -> Batch:
        """The rows, without their last tokens unless `whole`; of rows of one token, read whole, nothing is scored."""
        if not whole or ids.shape[1] > 1:
            check_first(first, ids.shape[1])
        labels = next_labels(ids, first)
        if whole:
            return Batch({"input_ids": ids}, labels)
        return Batch({"input_ids": ids[:, :-1]}, labels[:, :-1])


def next_labels(ids: Tensor, first: int = 1) -> Tensor:
    """For each position the token after it, from the one that predicts position `first`; none for the last."""
    labels = torch.full_like(ids, UNSCORED)
    labels[:, first - 1 : -1] = ids[:, first:]
    return labels


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts before and after a text."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any) -> Frame:
        """As `tokenizer` does it when left to its defaults; nothing where it is None."""
        if tokenizer is None:
            return cls()
        bare = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
        full = tokenizer("a", verbose=False)["input_ids"]
        at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), None)
        return cls() if at is None else cls(tuple(full[:at]), tuple(full[at + len(bare) :]))

    def around(self, ids: Tensor) -> Tensor:
        """Windows `[rows, length]` that begin and end as the model's texts do; their last tokens make the room.

        What a window begins with already is not put there again.
        """
        length = ids.shape[1]
        before, after = (ids.new_tensor(part).expand(len(ids), -1) for part in (self.before, self.after))
        if before.shape[1] and before.shape[1] <= length and torch.equal(ids[:, : before.shape[1]], before):
            before = before[:, :0]
        room = length - before.shape[1] - after.shape[1]
        if room < 1:
            raise SuperweightsError(
                f"A window of {length} tokens has no room between its special tokens.",
                hint="use longer windows.",
            )
        return torch.cat([before, ids[:, :room], after], 1)

    def covers(self, ids: Tensor) -> Tensor:
        """Where `ids` are special tokens of the frame, as a mask of their shape."""
        special = ids.new_tensor((*self.before, *self.after))
        return torch.isin(ids, special)


NO_FRAME = Frame()


def check_first(first: int, length: int) -> None:
    """Raise `SuperweightsError` unless position `first` can be predicted and lies inside the window."""
    if not 1 <= first < length:
        raise SuperweightsError(
            f"Scoring from position {first} leaves nothing of a window of {length} tokens.",
            hint="the first scored position is between 1 and the window's last.",
        )
