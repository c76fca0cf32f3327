"""The model's own protocol: how its texts begin, how they are cut into windows, and whether text fits the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from superweights.axes import Int
from superweights.discovery.findings import Search
from superweights.errors import SuperweightsError
from superweights.record import Score
from superweights.subject import Batch, context_of, device_of
from superweights.subject.facts import vocabulary_by_config
from superweights.subject.objective import NATS
from superweights.subject.text import PROMPTS, Text, raw_prompts, token_prompts, windows

# Of the loss of a model that knows nothing, ln(vocabulary): above the first share the text or the protocol hardly
# fits the model, above the second nothing that is measured there says anything about it.
_DOUBTFUL, _HOPELESS = 0.6, 0.9
_LENGTH = 128


def prompts_for(model: Any, tokenizer: Any, search: Search, bos: bool) -> Int[Tensor, "rows tokens"]:
    """The rows that are searched, `[rows, tokens]`: prompts as the model reads them, or random ids."""
    length = min(search.prompt_length, context_of(model) or search.prompt_length)
    if tokenizer is None:
        vocabulary = vocabulary_by_config(model.config)
        return raw_prompts(vocabulary, 8, length, search.seed).to(device_of(model))
    return token_prompts(tokenizer, length, bos=bos, prompts=search.prompts or PROMPTS).to(device_of(model))


def windows_for(model: Any, tokenizer: Any, text: Text, search: Search, bos: bool) -> Int[Tensor, "n length"]:
    """Windows of `text`, `[n, length]`: as many as may be needed, or as the text has; at least the first block's."""
    longest = context_of(model)
    length = search.length or min(_LENGTH, longest or _LENGTH)
    if longest is not None and length > longest:
        raise SuperweightsError(
            f"Windows of {length} tokens are longer than the model's context of {longest}.",
            hint=f"use --length {longest} or less.",
        )
    cut = windows(tokenizer, text, length, search.windows, bos=bos)  # refused where the text has too few
    wanted = max(search.most_windows, search.windows)
    if wanted > search.windows:
        cut = windows(tokenizer, text, length, bos=bos)[:wanted]
    return cut.to(device_of(model))


def blocks_of(rows: int, search: Search) -> Iterator[range]:
    """The windows of each proving pass: a first block, then as many again as there were before; where there are
    no more, the first ones again for what has not seen them yet."""
    first = min(search.windows or rows, rows)
    start, stop = 0, first
    for _ in range(search.budget):
        yield range(start, stop)
        start, stop = (0, first) if start == stop or stop >= rows else (stop, min(2 * stop, rows))
        if stop == first:
            rows = first  # the text has ended: from here on the first block alone


def doubt(loss: Score, model: Any, text: str) -> tuple[list[str], bool]:
    """What to say where the model's own loss is so high that the text or the protocol may not fit it, and whether
    anything can be judged there: a model that predicts hardly better than by chance has nothing to lose."""
    if loss.unit != NATS:
        return [], True
    known_nothing = math.log(vocabulary_by_config(model.config))
    if not loss.value < _HOPELESS * known_nothing:
        return [
            f"not judged: the model predicts {text} hardly better than by chance, its loss is {loss} and that of "
            f"guessing {known_nothing:.3g}. Give text that it knows with --text, or see --bos."
        ], False
    if loss.value < _DOUBTFUL * known_nothing:
        return [], True
    return [
        f"the model's own loss on {text} is high, {loss} (guessing: {known_nothing:.3g}): the text, or how it begins "
        "(--bos), may not fit it."
    ], True


def describe(token: int | None, tokenizer: Any) -> str | None:
    """How a token id is shown to a person."""
    if token is None:
        return None
    return f"id {token}" if tokenizer is None else tokenizer.decode([token])


def cut_to(batch: Batch, windows: range) -> Batch:
    """The rows of these windows."""
    return batch.take(torch.tensor(windows)) if len(windows) < len(batch) else batch
