"""Find the super weights of a checkpoint and prove each by intervention."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.discovery.findings import Expert, Findings, Group, Search
from superweights.discovery.hunt import Hunt
from superweights.discovery.judging import Judging
from superweights.discovery.protocol import describe, doubt, prompts_for, windows_for
from superweights.discovery.verdicts import findings_of
from superweights.discovery.writing import with_repetition
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.stream import streaming
from superweights.stream.blocks import find_blocks
from superweights.subject import device_of
from superweights.subject.bos import resolve_bos
from superweights.subject.text import Text, embedded_prose

_RANDOM = "no tokenizer: searched and judged on random token ids."

__all__ = ["Expert", "Findings", "Group", "Search", "find"]


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

    One pass over the weights finds candidates on short prompts. Further passes prove them on windows of `text` (None:
    English prose that Python brings along), each with more windows for those whose verdict is not clear: alone, with
    others of their column and of other layers, beside controls, and again without the strongest. Experts of a
    mixture are masked; with `search.greedy` text is written without each. `token_ids [rows, tokens]` replaces
    prompts and text where there is no tokenizer. `loading` goes to `stream.streaming`: dtype, device, resident.
    Ctrl-C after the first pass returns what is decided.

    Raises `SuperweightsError` for what is no causal language model, or holds NaN. Where it does not predict the text
    at all nothing is judged: every verdict is `undecided`, and a note says why.
    Source: arXiv 2411.07191, section 3.1; we differ in pairing input and output at one token, in relative
    thresholds, in looking for groups, and in proof.

    >>> findings = find()                                                   # doctest: +SKIP
    >>> [str(w.address) for w in findings.super_weights]                    # doctest: +SKIP
    """
    search = search or Search()
    if not isinstance(checkpoint, Checkpoint):
        with open_checkpoint(checkpoint) as opened:
            return find(opened, search, text=text, token_ids=token_ids, progress=progress, **loading)
    tokenizer = checkpoint.tokenizer() if token_ids is None else None
    kept = {**loading, "resident": bool(loading.get("resident"))}  # a block at a time unless asked otherwise
    with streaming(checkpoint, **kept) as model:
        _check_blocks(model, checkpoint)
        bos = resolve_bos(tokenizer, search.bos) if tokenizer is not None else None
        prompts = prompts_for(model, tokenizer, search, bool(bos)) if token_ids is None else token_ids
        prompts = prompts.to(device_of(model))
        batch, read = prompts, None
        if search.windows and tokenizer is not None:  # before the search, since it may be refused
            read = text or embedded_prose()
            batch = windows_for(model, tokenizer, read, search, bool(bos))
        hunt = Hunt(model, checkpoint, search, progress or silent)
        hunt.look(prompts)
        judging = Judging(hunt, batch)
        judging.run()
        notes = [] if tokenizer or token_ids is not None else [_RANDOM]
        if read is not None and hunt.base.seen:
            said, judging.fits = doubt(hunt.base_loss, model, read.name)
            notes += said
        conditions = {**_conditions(hunt, batch, read), "bos": bos}
        found = findings_of(judging, conditions, tuple(notes), partial(describe, tokenizer=tokenizer))
    if search.greedy and not judging.interrupted:
        return with_repetition(found, checkpoint, batch, search.greedy, progress or silent, **loading)
    return found


def _conditions(hunt: Hunt, ids: Tensor, read: Text | None) -> dict[str, Any]:
    """On what was judged: the checkpoint, the settings, and the windows `ids [windows, tokens]` of the text `read`."""
    return {
        **hunt.checkpoint.origin(),
        "search": asdict(hunt.search),
        "confirmed_on": read.name if read is not None and hunt.base.seen else "the prompts",
        "text_sha256": read.sha256 if read is not None else None,
        "window_tokens": ids.shape[1],
        "dtype": str(hunt.model.dtype).removeprefix("torch."),
    }


def _check_blocks(model, checkpoint: Checkpoint) -> None:
    """Raise where there is nothing to search."""
    if not find_blocks(model):
        raise SuperweightsError(
            f"{checkpoint.name} has no blocks with linear layers, so it has no super weights to find.",
            hint="config.json says how many layers there are: it may be damaged.",
        )
