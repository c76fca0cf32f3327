"""Find the super weights of a checkpoint and prove each by intervention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.discovery.findings import Findings, Search
from superweights.discovery.hunt import Hunt
from superweights.discovery.proof import Bars
from superweights.errors import SuperweightsError
from superweights.progress import Progress
from superweights.stream import streaming
from superweights.stream.blocks import find_blocks
from superweights.subject import context_of, device_of
from superweights.subject.facts import vocabulary_by_config
from superweights.subject.text import PROMPTS, Text, embedded_prose, raw_prompts, token_prompts, windows

__all__ = ["Findings", "Search", "find"]

_GRAVITY = ("critical", "partial", "benign")


def find(
    checkpoint: Checkpoint | str | None = None,
    search: Search | None = None,
    *,
    text: Text | None = None,
    token_ids: Tensor | None = None,
    progress: Progress | None = None,
    **loading: Any,
) -> Findings:
    """The super weights of `checkpoint` (a name or an open one; None: the embedded model), each with its proof.

    One pass over the weights finds candidates on short prompts and zeroes each in a branch of the same pass;
    a second confirms on windows of `text` (None: English prose that Python brings along), beside controls,
    and looks again without the proven ones. `token_ids [rows, tokens]` replaces the prompts where there is
    no tokenizer. `loading` goes to `stream.streaming`: dtype, device, resident.

    Raises `SuperweightsError` for what is no causal language model, or holds NaN. Source: arXiv 2411.07191,
    section 3.1; we differ in pairing input and output at one token, in relative thresholds, and in proof.

    >>> findings = find()                                                   # doctest: +SKIP
    >>> [str(w.address) for w in findings.super_weights]                    # doctest: +SKIP
    """
    search = search or Search()
    if not isinstance(checkpoint, Checkpoint):
        with open_checkpoint(checkpoint) as opened:
            return find(opened, search, text=text, token_ids=token_ids, progress=progress, **loading)
    tokenizer = checkpoint.tokenizer() if token_ids is None else None
    with streaming(checkpoint, **{"resident": False, **loading}) as model:
        _check_blocks(model, checkpoint)
        prompts, notes = _prompts(model, tokenizer, token_ids, search)
        batch, read = prompts, None
        if search.windows and tokenizer is not None:
            read = text or embedded_prose()
            batch = _windows(model, tokenizer, read, search)  # before the search: it may be refused
        hunt = Hunt(model, checkpoint, search, progress or (lambda *_: None), _namer(tokenizer))
        hunt.look(prompts)
        if hunt.candidates:
            hunt.confirm(batch)
    conditions = {
        **checkpoint.origin(),
        "search": asdict(search),
        "confirmed_on": read.name if read is not None and hunt.candidates else "the prompts",
        "text_sha256": read.sha256 if read is not None else None,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    return _findings(hunt, conditions, (*notes, *hunt.notes), search.bars)


def _findings(hunt: Hunt, conditions: dict[str, Any], notes: tuple[str, ...], bars: Bars) -> Findings:
    assert hunt.base_loss is not None, "a search has looked at least once"
    candidates = tuple(hunt.verdicts())
    held = {candidate.verdict for candidate in candidates}
    if hunt.joint is not None and "critical" not in held and hunt.joint.interval()[0] >= bars.critical:
        held.add("critical")
        notes = (
            *notes,
            "no single weight is critical, but the strongest together are: they back each other up.",
        )
    return Findings(
        verdict=next((verdict for verdict in _GRAVITY if verdict in held), "none"),
        candidates=candidates,
        layers=tuple(hunt.layers),
        base_loss=hunt.base_loss,
        joint=hunt.joint,
        removed=tuple(str(c.address) for c in hunt.removed),
        conditions=conditions,
        notes=notes,
    )


def _prompts(model, tokenizer, token_ids: Tensor | None, search: Search) -> tuple[Tensor, tuple[str, ...]]:
    """The rows to search on, `[rows, tokens]`, and what to say about them."""
    if token_ids is not None:
        return token_ids.to(device_of(model)), ()
    length = min(search.prompt_length, context_of(model) or search.prompt_length)
    if tokenizer is None:
        vocabulary = vocabulary_by_config(model.config)
        ids = raw_prompts(vocabulary, 8, length, search.seed)
        return ids.to(device_of(model)), ("no tokenizer: searched and judged on random token ids.",)
    prompts = search.prompts or PROMPTS
    rows = [token_prompts(tokenizer, length, prompts=prompts)]
    if tokenizer.bos_token_id is not None:
        rows.append(token_prompts(tokenizer, rows[0].shape[1], bos=True, prompts=prompts))
    return torch.cat(rows).to(device_of(model)), ()


def _check_blocks(model, checkpoint: Checkpoint) -> None:
    """Raise where there is nothing to search."""
    if not find_blocks(model):
        raise SuperweightsError(
            f"{checkpoint.name} has no blocks with linear layers, so it has no super weights to find.",
            hint="config.json says how many layers there are: it may be damaged.",
        )


def _windows(model, tokenizer, text: Text, search: Search) -> Tensor:
    longest = context_of(model)
    if longest is not None and search.length > longest:
        raise SuperweightsError(
            f"Windows of {search.length} tokens are longer than the model's context of {longest}.",
            hint=f"use --length {longest} or less.",
        )
    return windows(tokenizer, text, search.length, search.windows).to(device_of(model))


def _namer(tokenizer) -> Callable[[int | None], str | None]:
    """How a token id is shown to a person."""
    if tokenizer is None:
        return lambda token: None if token is None else f"id {token}"
    return lambda token: None if token is None else tokenizer.decode([token])
