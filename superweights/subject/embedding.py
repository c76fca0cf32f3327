"""Embeddings: a model without a head is judged by how far its embedding of a text moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.subject.batch import Batch
from superweights.subject.objective import COSINE, NO_FRAME, Frame

# How sentence-transformers calls, in 1_Pooling/config.json, what is made of the tokens' states.
_POOLING_FILE = "1_Pooling/config.json"
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first", "pooling_mode_max_tokens": "max",
             "pooling_mode_lasttoken": "last"}  # fmt: skip


@dataclass(frozen=True)
class Embedding:
    """Nothing is predicted: the loss is 1 - cosine between the embedding of a changed model and of the model as it is.

    `pooling` makes one vector of the last states: `mean`, `first`, `last` or `max`.
    """

    pooling: str = "mean"
    frame: Frame = NO_FRAME
    """What stands before and after a text."""
    name: str = "embedding"
    """The word for it."""
    unit: str = COSINE
    """Of its loss."""

    def batch(self, ids: Tensor, first: int = 1, whole: bool = False) -> Batch:
        """The rows between their special tokens; nothing is scored word by word."""
        framed = self.frame.around(ids)
        return Batch({"input_ids": framed, "attention_mask": torch.ones_like(framed)})

    def pool(self, states: Tensor) -> Tensor:
        """The embedding `[rows, width]` of last states `[rows, tokens, width]`, float32; of `[rows, width]` itself.

        States of pictures `[rows, channels, height, width]` are taken position by position.
        """
        states = states.float()
        if states.dim() == 4:
            states = states.flatten(2).mT
        if states.dim() == 2:
            return states
        if self.pooling == "max":
            return states.amax(1)
        return {"mean": states.mean(1), "first": states[:, 0], "last": states[:, -1]}[self.pooling]


def pooling_of(companion: Any) -> str:
    """How the checkpoint makes one vector of the states, as its `companion(file)` says; the mean where it says nothing.

    Raises `SuperweightsError` for ways that are not known here.
    """
    said = companion(_POOLING_FILE)
    if not said:
        return "mean"
    chosen = [key for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise SuperweightsError(
            f"{_POOLING_FILE} asks for {', '.join(chosen) or 'no pooling'}, which is not known here.",
            hint=f"known are {', '.join(_POOLINGS)}, one at a time.",
        )
    return _POOLINGS[chosen[0]]


def distances(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine of each pair of rows of two sets of embeddings `[rows, width]`: `[rows]`, 0 to 2; nan for no numbers.

    By the difference of the unit vectors, which stays exact where the two hardly differ.
    """
    normed = [torch.nn.functional.normalize(each.double(), dim=-1) for each in (one, other)]
    return ((normed[0] - normed[1]).square().sum(-1) / 2).float()


def neighbours(embeddings: Tensor) -> Tensor:
    """For each row of `[rows, width]` the index of the row that is nearest by cosine: `[rows]`."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    alike = unit @ unit.T
    alike.fill_diagonal_(-torch.inf)
    return alike.argmax(-1)
