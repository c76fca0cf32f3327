"""What a model is trained to predict: which class of transformers' opens it, and how tokens become batch and targets.

A further objective (masked words, a second sequence, the next token given an image) is one more class here.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.subject.batch import Batch


class Objective(Protocol):
    """What is predicted of a row of tokens."""

    auto_class: str
    """The name of the transformers auto class that opens a model for this objective."""
    tower: str | None
    """The part of the model that predicts; None where there is only one."""

    def batch(self, ids: Tensor, first: int = 1) -> Batch:
        """The batch of the token ids `[rows, length]`, scored from position `first` of each row."""
        ...


class NextToken:
    """Each token is predicted from those before it: decoder language models."""

    auto_class = "AutoModelForCausalLM"
    tower = None

    def batch(self, ids: Int[Tensor, "rows length"], first: int = 1) -> Batch:
        """The rows without their last tokens; what predicts position `first` and those after it is scored.

        Raises `SuperweightsError` unless position `first` can be predicted and lies inside the row.
        """
        check_first(first, ids.shape[1])
        rows, positions = torch.meshgrid(
            torch.arange(len(ids)), torch.arange(first - 1, ids.shape[1] - 1), indexing="ij"
        )
        return Batch(
            {"input_ids": ids[:, :-1]}, (rows.reshape(-1), positions.reshape(-1)), ids[:, first:].reshape(-1)
        )


def check_first(first: int, length: int) -> None:
    """Raise `SuperweightsError` unless position `first` can be predicted and lies inside the window."""
    if not 1 <= first < length:
        raise SuperweightsError(
            f"Scoring from position {first} leaves nothing of a window of {length} tokens.",
            hint="the first scored position is between 1 and the window's last.",
        )
