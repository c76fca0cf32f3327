"""A model without one of its blocks: the residual stream passes by it.

The blocks up to the removed one need not run: in every removal they would compute what they computed before,
so they answer with the stream that entered the removed block, kept from one pass. All L removals together
cost about L / 2 passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.interpretability.body import Body
from superweights.interpretability.study import Study
from superweights.record import Score
from superweights.scoring import Variant, loss_change, loss_per_window, perplexity_of
from superweights.subject.calls import first_tensor, hidden_of, like_output

# Tokens of a batch, times layers, times channels: what is kept of one pass stays below this many numbers.
_NUMBERS = 1 << 27


@dataclass(frozen=True)
class Removal:
    """The model without block `layer`: its perplexity, and the paired rise of its loss."""

    layer: int
    perplexity: Score
    loss: Score


@contextmanager
def skipping(model: nn.Module, layers: list[int] | tuple[int, ...]) -> Iterator[None]:
    """`model` without the blocks `layers`: inside the `with` each gives back the stream it was given.

    The block still runs (its output is thrown away), which makes this right for any family; for speed over
    many removals see `removal_effects`. Raises `SuperweightsError` for a layer that does not exist.
    """
    body = Body.of(model)
    handles = []
    try:
        for layer in layers:
            block = _block(body, layer)
            handles.append(block.register_forward_hook(_pass_by, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def removal_effects(study: Study) -> tuple[Score, tuple[Removal, ...]]:
    """The model's perplexity on the study's windows, and that without each block in turn."""
    body = Body.of(study.model)
    windows, size = study.ids, _batch(study, body)
    base: list[Tensor] = []
    lost: list[list[Tensor]] = [[] for _ in range(body.layers)]
    for start in range(0, len(windows), size):
        batch = windows[start : start + size]
        base.append(loss_per_window(study.model, batch, batch_size=size))
        passages = _passages(body, batch.to(body.device))
        for layer in range(body.layers):
            variant = Variant(study.model, lambda layer=layer, kept=passages: _resumed(body, layer, kept))
            lost[layer].append(loss_per_window(variant, batch, batch_size=size))
            study.progress(
                "removing", start * body.layers + len(batch) * (layer + 1), len(windows) * body.layers
            )
    before = torch.cat(base)
    each = [torch.cat(part) for part in lost]
    return perplexity_of(before), tuple(
        Removal(layer, perplexity_of(after), loss_change(before, after)) for layer, after in enumerate(each)
    )


@dataclass(frozen=True, eq=False)
class _Passage:
    """One block's call in the pass that is kept: the stream it was given, and what it returned."""

    given: Tensor
    returned: Any


def _passages(body: Body, ids: Tensor) -> list[_Passage]:
    """Every block's call. `ids` are what the losses are made of: all tokens but the last are read."""
    found: list[_Passage] = []

    def note(block: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        # of the output only what stands beside the stream is needed
        found.append(_Passage(hidden_of(args, kwargs).clone(), None if isinstance(out, Tensor) else out))

    hooks = [_block(body, n).register_forward_hook(note, with_kwargs=True) for n in range(body.layers)]
    try:
        with torch.no_grad():
            body.model(input_ids=ids[:, :-1], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def _resumed(body: Body, removed: int, passages: list[_Passage]) -> Iterator[None]:
    """The model with its blocks up to `removed` answering with the stream that enters that one."""
    stream = passages[removed].given
    with ExitStack() as stack:
        for layer in range(removed + 1):
            out = passages[layer].returned
            answer = stream if out is None else like_output(out, stream)
            stack.enter_context(_answering(_block(body, layer), answer))
        yield


@contextmanager
def _answering(block: nn.Module, answer: Any) -> Iterator[None]:
    """`block` answers every call with `answer`, without computing."""
    own = block.__dict__.get("forward")

    def forward(*args: Any, **kwargs: Any) -> Any:
        assert hidden_of(args, kwargs).shape == first_tensor(answer).shape, "another batch than the one kept"
        return answer

    block.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own is None:
            del block.forward
        else:
            block.forward = own  # type: ignore[method-assign]


def _pass_by(block: nn.Module, args: tuple, kwargs: dict, out: Any) -> Any:
    return like_output(out, hidden_of(args, kwargs))


def _block(body: Body, layer: int) -> nn.Module:
    if not 0 <= layer < body.layers:
        raise SuperweightsError(
            f"There is no block {layer}: the model runs {body.layers}.", hint="layers count from 0."
        )
    return body.model.get_submodule(body.sites.blocks[layer])


def _batch(study: Study, body: Body) -> int:
    """Windows at a time, so that the streams before all blocks stay below half a gigabyte in float32."""
    n, tokens = study.ids.shape
    if tokens < 2:
        raise SuperweightsError("Windows of one token have no next token.", hint="use longer windows.")
    width = body.model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    fitting = max(1, _NUMBERS // (tokens * width * body.layers))
    size = min(n, fitting, study.batch_size or max(1, 2048 // tokens))
    return size if size == 1 or not _rows_run_alone(body, study.ids[:2]) else 1


def _rows_run_alone(body: Body, windows: Tensor) -> bool:
    """Whether scoring this model takes its rows one at a time, so that a batch's streams are not what enters."""
    rows: list[int] = []
    note = lambda _, args, kwargs: rows.append(len(hidden_of(args, kwargs)))  # noqa: E731
    with _block(body, 0).register_forward_pre_hook(note, with_kwargs=True):
        loss_per_window(body.model, windows, batch_size=len(windows))
    return min(rows) < len(windows)
