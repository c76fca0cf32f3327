"""What a model writes without its super weights: whether greedy text falls into repeating itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.discovery.findings import Findings
from superweights.editing import Edit, edited
from superweights.progress import Progress
from superweights.record import Score
from superweights.scoring.predictions import Variant
from superweights.scoring.repetition import greedy_repetition
from superweights.stream import streaming

# Text is written after the beginnings of so many windows, of so many tokens.
_PROMPTS, _BEGINNING = 8, 32


def with_repetition(
    found: Findings, checkpoint: Checkpoint, ids: Tensor, new_tokens: int, progress: Progress, **loading: Any
) -> Findings:
    """`found` with the repetition rate of the model's greedy text: unedited, and without each super weight and group.

    Written are `new_tokens` tokens after the beginnings of the first windows of `ids [windows, tokens]`.
    """
    prompts = ids[:_PROMPTS, :_BEGINNING]
    taken_out = [(weight.address,) for weight in found.candidates if weight.matters]
    taken_out += [tuple(map(Address.parse, group.members)) for group in found.groups]
    with streaming(checkpoint, **{**loading, "resident": True}) as model:
        base = greedy_repetition(model, prompts, new_tokens)
        rates: dict[tuple[Address, ...], Score] = {}
        for number, addresses in enumerate(taken_out, start=1):
            change = partial(edited, model, _zeroed(addresses), verify=False)
            rates[addresses] = greedy_repetition(Variant(model, change), prompts, new_tokens)
            progress("writing", number, len(taken_out))
    weights = (replace(weight, repetition=rates.get((weight.address,))) for weight in found.candidates)
    groups = (
        replace(group, repetition=rates[tuple(map(Address.parse, group.members))]) for group in found.groups
    )
    return replace(found, candidates=tuple(weights), groups=tuple(groups), repetition=base)


def _zeroed(addresses: Sequence[Address]) -> list[Edit]:
    return [Edit(address, factor=0.0) for address in addresses]
