"""Asking: one pass over some tokens, any number of questions, each keeping only what its answer needs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Answer
from superweights.interpretability.body import Body
from superweights.progress import Progress
from superweights.subject import is_streamed, objective_of
from superweights.subject.facts import check_length, check_tokens, forward
from superweights.taps import Site, Tap, tapping

# Tokens, and attention weights of one layer, that a batch holds by default. A streamed model reads its
# weights again for every batch, and gets larger ones.
_TOKENS, _TOKENS_STREAMED, _WEIGHTS = 2048, 8192, 1 << 24


class Reduction(Protocol):
    """One question asked of a pass: taps in, an answer out.

    Its taps are called layer by layer as the model runs, and keep sums, maxima, counts: memory of the
    answer's size. They return None (a change would be every other question's too). A new one is made for
    each pass.
    """

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        """What to look at. Raises `SuperweightsError` where this model cannot be asked."""
        ...

    def begin(self, ids: Tensor) -> None:
        """A batch of token ids `[B, T]`, on the model's device, is about to run."""
        ...

    def answer(self) -> Answer:
        """The answer, after the last batch."""
        ...


def ask(
    model: nn.Module,
    ids: Int[Tensor, "n T"],
    *reductions: Reduction,
    batch_size: int | None = None,
    progress: Progress | None = None,
    tower: str | None = None,
) -> list[Any]:
    """The answers of `reductions`, in order, after one pass of `model` over `ids [n, T]`.

    The windows become what the model's objective makes of them (masked words, a second sequence); `tower` is the stack
    of blocks that is looked at, None the last one.

    Works on resident and on streamed models. One layer's attention weights stand in memory at a time
    (`[B, H, T, T]`, only where a question wants them), and no logits unless a question taps them; the batch
    is chosen so that this stays small, one row at a time for long ones.

    Raises `SuperweightsError` for ids that the model cannot read, for rows that start with padding (position
    0 would be a pad, and every question here is about positions), and for what a question itself refuses.
    """
    _check(model, ids)
    body, goal = Body.of(model, tower), objective_of(model)
    heads = max((place.heads or 1 for place in body.sites.places.values()), default=1)
    size = batch_size or _fitting(model, ids.shape[1], heads)
    taps = _merged([reduction.taps(body) for reduction in reductions])
    few = {} if Site("head_logits") in taps else _no_logits(model)
    with torch.no_grad(), tapping(model, taps, tower):
        for start in range(0, len(ids), size):
            batch = goal.batch(ids[start : start + size].to(body.device), whole=True)
            seen = body.ids_of(batch)
            for reduction in reductions:
                reduction.begin(seen)
            forward(model, batch, **few)
            if progress is not None:
                progress("reading", min(start + size, len(ids)), len(ids))
    return [reduction.answer() for reduction in reductions]


def _merged(each: Sequence[Mapping[Site, Tap]]) -> dict[Site, Tap]:
    """One tap for each site, which shows the tensor to everyone who asked."""
    listeners: dict[Site, list[Tap]] = {}
    for taps in each:
        for site, tap in taps.items():
            listeners.setdefault(site, []).append(tap)

    def all_of(here: list[Tap]) -> Tap:
        def show(tensor: Tensor) -> None:
            for tap in here:
                changed = tap(tensor)
                assert changed is None, "a reduction only looks"

        return show

    return {site: all_of(here) for site, here in listeners.items()}


def _fitting(model: nn.Module, tokens: int, heads: int) -> int:
    """How many rows of `tokens` go through at once."""
    streamed = is_streamed(model)
    by_tokens = (_TOKENS_STREAMED if streamed else _TOKENS) // tokens
    return max(1, min(by_tokens, _WEIGHTS // (heads * tokens * tokens)))


def _no_logits(model: nn.Module) -> dict[str, int]:
    """What to say so that the model makes the logits of one token only."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def _check(model: nn.Module, ids: Tensor) -> None:
    if ids.ndim != 2 or 0 in ids.shape or ids.is_floating_point():
        raise SuperweightsError(
            f"Token ids must be whole numbers [rows, tokens], got {list(ids.shape)} of {ids.dtype}.",
            hint="cut them with superweights.text.windows.",
        )
    check_tokens(model, ids)
    check_length(model, ids.shape[1])
    config: Any = getattr(model, "config", None)
    padded = _padded_row(config, ids)
    if padded is not None:
        raise SuperweightsError(
            f"Row {padded} starts with padding, so its position 0 is no token of the text.",
            hint="give windows of one length without padding, or pad on the right side and cut.",
        )


def _padded_row(config: Any, ids: Tensor) -> int | None:
    """The first row that starts with padding: once where the pad means nothing else, or twice in any case."""
    pad = getattr(config, "pad_token_id", None)
    if not isinstance(pad, int) or ids.shape[1] < 2:
        return None
    others = (getattr(config, name, None) for name in ("bos_token_id", "eos_token_id"))
    shared = any(pad in (other if isinstance(other, list) else [other]) for other in others)
    starts = ids[:, 0] == pad
    starts = starts & (ids[:, 1] == pad) if shared else starts
    return int(starts.nonzero()[0]) if bool(starts.any()) else None
