"""What a search reads: short prompts to look at, windows of a text to prove on, as batches of the model's objective."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from superweights.checkpoint import Checkpoint
from superweights.discovery.findings import Search
from superweights.discovery.protocol import prompts_for, windows_for
from superweights.subject import Batch, device_of, objective_of
from superweights.subject.bos import resolve_bos
from superweights.subject.given import given_batch
from superweights.subject.text import Text, embedded_prose


@dataclass(frozen=True, eq=False)
class Material:
    """What is read in a search."""

    prompts: Batch
    """Looked at in the first pass."""
    windows: Batch
    """What effects are proved on; the prompts where there is no text."""
    text: Text | None
    """What the windows were cut from."""
    bos: bool | None
    """Whether windows begin with the beginning-of-sequence token; None without a tokenizer."""
    is_random: bool
    """Whether the tokens are random ones, for want of a tokenizer."""


def gather(
    model: Any,
    checkpoint: Checkpoint,
    tokenizer: Any,
    search: Search,
    text: Text | None,
    given: Tensor | Mapping[str, Tensor] | None,
) -> Material:
    """The material for `model`: of a text, of random tokens where there is no tokenizer, or what was `given`.

    Windows are cut before the search, since the text may be refused. Errors as `windows_for` and `given_batch`.
    """
    objective, device = objective_of(model), device_of(model)
    if isinstance(given, Mapping):
        parameters = inspect.signature(model.forward).parameters
        batch = given_batch(given, objective.name, parameters, model.config).to(device)
        return Material(batch, batch, None, None, False)
    bos = resolve_bos(tokenizer, search.bos) if tokenizer is not None else None
    ids = prompts_for(model, tokenizer, search, bool(bos)) if given is None else given
    prompts = objective.batch(ids.to(device), whole=True)
    is_random = tokenizer is None and given is None
    if not search.windows or tokenizer is None:
        return Material(prompts, prompts, None, bos, is_random)
    read = text or embedded_prose()
    cut = windows_for(model, tokenizer, read, search, bool(bos))
    return Material(prompts, objective.batch(cut, whole=True), read, bos, False)
