"""Documents continued, sentence by sentence, until the model says that they end or begins to repeat itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from superweights.errors import SuperweightsError

# (documents [B, S, C], lengths [B]) -> the next vectors [B, C]
Next = Callable[[Tensor, Tensor], Tensor]


def continue_documents(
    begun: list[Tensor], next_of: Next, end: Tensor, most: int = 20, similar: float = 0.9
) -> list[Tensor]:
    """The new vectors `[n, C]` of each document `[S, C]`, all documents at once.

    A document stops when a new vector is closer than `similar` (cosine) to `end [C]`, the vector of "End of text.", or
    to the vector before it; that vector is not kept. Raises `SuperweightsError` for a document without a sentence.
    """
    if any(not len(document) for document in begun):
        raise SuperweightsError("A document without a sentence cannot be continued.", hint="begin with one.")
    documents, running = list(begun), list(range(len(begun)))
    for _ in range(most):
        if not running:
            break
        batch = torch.nn.utils.rnn.pad_sequence([documents[n] for n in running], batch_first=True)
        lengths = torch.tensor([len(documents[n]) for n in running])
        found = next_of(batch, lengths)
        going = []
        for n, vector in zip(running, found, strict=True):
            last = documents[n][-1]
            if max(_cosine(vector, end), _cosine(vector, last)) <= similar:
                documents[n] = torch.cat([documents[n], vector[None]])
                going.append(n)
        running = going
    return [now[len(was) :] for now, was in zip(documents, begun, strict=True)]


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(functional.cosine_similarity(one, other, dim=-1))
