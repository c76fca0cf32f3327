"""`superweights.explore`: a local page on which a super weight is pulled, and what it does is watched."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.discovery import find
from superweights.errors import SuperweightsError
from superweights.explorer import Explorer
from superweights.explorer.page import build
from superweights.explorer.serving import chosen_token, listening, serve
from superweights.index.choice import TO_PROTECT, choose_weights
from superweights.progress import Progress, silent
from superweights.record import SuperWeight
from superweights.stream.opening import opening
from superweights.subject import Source, check_next_token


def explore(
    model: Any = None,
    weights: Sequence[Address | str] | Address | str = (),
    *,
    record: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    token_file: Path | None = None,
    names: Collection[str] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[str]:
    """The address of the page, once it is served; it is served until the iteration goes on or ends.

    On the page are `weights`, those of a `record` of `find`, known ones, or what a search finds now, and a random
    one of the same matrix as a control. Another `host` than this machine's own needs a `token` that people enter
    (or a `token_file` that holds it, or SUPERWEIGHTS_TOKEN). Port 0 is any that is free. Behind a proxy, `names` are
    those by which browsers ask for the page there; every other name but this machine's own is refused.

    Raises `SuperweightsError` without the extra `app`, for a model without a tokenizer, and where no weight is found.

    >>> for address in explore("embedded"):               # doctest: +SKIP
    ...     print(address)
    """
    source = replace(Source.of(model), resident=True)
    word = chosen_token(token, token_file)
    with listening(host, port, word) as listener, opening(source) as opened:
        check_next_token(opened.model)
        tokenizer = opened.tokenizer
        chosen = _chosen(opened.checkpoint, Address.several(weights), record, source, progress)
        pulled = _named(opened.checkpoint, chosen, seed)
        page = build(Explorer(opened.model, tokenizer, pulled), opened.checkpoint.name)
        yield from serve(page, listener, host, word, names)


def _chosen(
    checkpoint: Checkpoint, given: Sequence[Address], record: Path | None, source: Source, progress: Progress
) -> Sequence[Address]:
    """Those given, else recorded or known, else searched for now."""

    def searched() -> Sequence[SuperWeight]:
        return find(checkpoint, progress=progress, dtype=source.dtype, device=source.device).super_weights

    chosen = choose_weights(checkpoint, given, record, (*TO_PROTECT, "search"), searched)
    if not chosen.addresses:
        raise SuperweightsError(
            f"No super weight of {checkpoint.name} was found.", hint="name weights to pull with --weights."
        )
    return chosen.addresses


def _named(checkpoint: Checkpoint, chosen: Sequence[Address], seed: int) -> dict[str, Address]:
    """The weights by name, the largest first, and beside them a random one of the first one's matrix, as a control."""
    chosen = sorted(chosen, key=lambda each: -abs(checkpoint.element(each.tensor, each.index)))
    names = {str(address): address for address in chosen}
    first, draw = chosen[0], random.Random(seed)
    index = tuple(draw.randrange(size) for size in checkpoint.tensors[first.tensor].shape)
    control = Address(first.tensor, index)
    return {**names, f"control, a random weight: {control}": control}
