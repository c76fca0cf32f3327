"""Find the super weights of a checkpoint and prove each by intervention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor

from superweights import processes
from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.discovery.findings import Expert, Findings, Group, Search
from superweights.discovery.hunt import Hunt
from superweights.discovery.judging import Judging
from superweights.discovery.material import Material, gather
from superweights.discovery.protocol import describe, doubt
from superweights.discovery.verdicts import findings_of
from superweights.discovery.writing import with_repetition
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.stream import streaming
from superweights.subject import check_next_token
from superweights.subject.blocks import find_blocks
from superweights.subject.facts import CANNOT_RUN
from superweights.subject.text import Text

_RANDOM = "no tokenizer: searched and judged on random token ids."

__all__ = ["Expert", "Findings", "Group", "Search", "find"]


def find(
    checkpoint: Checkpoint | str | None = None,
    search: Search | None = None,
    *,
    text: Text | None = None,
    token_ids: Tensor | Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
    **loading: Any,
) -> Findings:
    """The super weights of `checkpoint` (a name or an open one; None: the embedded model), each with its proof.

    One pass over the weights finds candidates on short prompts. Further passes prove them on windows of `text` (None:
    English prose that Python brings along), each with more windows for those whose verdict is not clear: alone, with
    others of their column and of other layers, beside controls, and again without the strongest. Experts of a
    mixture are masked; with `search.greedy` text is written without each. `token_ids [rows, tokens]` replaces
    prompts and text where there is no tokenizer; so do the model's own arguments by name (pictures, sounds: see
    `subject.given`). `loading` goes to `stream.streaming`: dtype, device, resident, objective. Ctrl-C after the first
    pass returns what is decided.

    What the model loses is measured by its objective (`subject.objective`): in nats per token where it predicts, as
    1 - cosine to its own embedding where it has no head. Raises `SuperweightsError` for what has no objective, or holds
    NaN. Where it does not predict the text at all nothing is judged: every verdict is `undecided`, and a note says why.

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
        if search.greedy:
            check_next_token(model)
        material = gather(model, checkpoint, tokenizer, search, text, token_ids)
        hunt = Hunt(model, checkpoint, search, progress or silent)
        with _running(checkpoint, token_ids):
            hunt.look(material.prompts)
        judging = Judging(hunt, material.windows, hunt.bars)
        judging.run()
        notes = [_RANDOM] if material.is_random else []
        read = material.text
        if read is not None and hunt.base.seen:
            said, judging.fits = doubt(hunt.base_loss, model, read.name)
            notes += said
        conditions = {**_conditions(hunt, material), "bars": asdict(judging.bars)}
        if loading.get("tensor_parallel"):
            conditions["processes"] = processes.count()
        found = findings_of(judging, conditions, tuple(notes), partial(describe, tokenizer=tokenizer))
    if search.greedy and not judging.interrupted:
        ids = material.windows.arguments["input_ids"]
        return with_repetition(found, checkpoint, ids, search.greedy, progress or silent, **loading)
    return found


def _conditions(hunt: Hunt, material: Material) -> dict[str, Any]:
    """On what was judged: the checkpoint, the settings, the objective, and the windows of the text."""
    read = material.text
    return {
        **hunt.checkpoint.origin(),
        "search": asdict(hunt.search),
        "objective": hunt.objective.name,
        "bos": material.bos,
        "confirmed_on": read.name if read is not None and hunt.base.seen else "the prompts",
        "text_sha256": read.sha256 if read is not None else None,
        "window_tokens": material.windows.length,
        "dtype": str(hunt.model.dtype).removeprefix("torch."),
    }


@contextmanager
def _running(checkpoint: Checkpoint, given: Any) -> Iterator[None]:
    """Inside, what the model's own code says of arguments that were given is told in one sentence."""
    try:
        yield
    except CANNOT_RUN as error:
        if not isinstance(given, Mapping):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SuperweightsError(
            f"{checkpoint.name} cannot run the inputs: {said}",
            hint="give what its own processor makes: sizes, places for pictures in the text, one row for each.",
        ) from error


def _check_blocks(model, checkpoint: Checkpoint) -> None:
    """Raise where there is nothing to search."""
    if not find_blocks(model):
        raise SuperweightsError(
            f"{checkpoint.name} has no blocks with linear layers, so it has no super weights to find.",
            hint="config.json says how many layers there are: it may be damaged.",
        )
