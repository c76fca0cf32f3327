"""The blocks of a model one after the other, with the hidden states that go from each to the next in hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.subject import device_of, stream_of
from superweights.subject.blocks import find_blocks

# Sequences that run together.
_BATCH = 8


@dataclass(frozen=True)
class _Call:
    """What a block is called with, without its hidden states: those stand at `args[0]`, or under `named`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    named: str | None


class Chain:
    """Hidden states before a block, batch by batch: `exact` of the unrounded model, `moved` of the rounded one."""

    def __init__(self, blocks: dict[str, nn.Module], calls: dict[str, list[_Call]], start: list[Tensor]):
        self.blocks = blocks
        self._calls = calls
        self.exact = list(start)
        self.moved = list(start)

    def __len__(self) -> int:
        return len(self.exact)

    def through(self, path: str, place: int, hidden: Tensor) -> Tensor:
        """The hidden states `[sequences, tokens, channels]` of batch `place` after the block at `path`."""
        call = self._calls[path][place]
        if call.named is None:
            return _states(self.blocks[path](hidden, *call.args, **call.kwargs))
        return _states(self.blocks[path](*call.args, **{call.named: hidden}, **call.kwargs))


def chain_of(model: nn.Module, tokens: Tensor) -> Chain:
    """The chain before the first block of `model`, for token ids `tokens` `[sequences, length]`.

    What every block is called with besides (masks, positions) is recorded in a pass without blocks. Raises
    `SuperweightsError` where a block's hidden states are not the ones that the block before it has made.
    """
    blocks = find_blocks(model)
    if not blocks:
        raise SuperweightsError(
            f"{type(model).__name__} has no list of blocks.", hint="round it by another fit: --fit centred."
        )
    body = getattr(model, getattr(model, "base_model_prefix", ""), None) or model
    in_tuple = _check_chain(body, blocks, tokens[:1, : min(4, tokens.shape[1])].to(device_of(model)))
    calls: dict[str, list[_Call]] = {path: [] for path in blocks}
    start: list[Tensor] = []
    stream = stream_of(model)
    asleep: Any = nullcontext() if stream is None else stream.asleep()  # type: ignore[attr-defined]
    with asleep, _recording(blocks, calls, start, in_tuple):
        for batch in tokens.split(_BATCH):
            body(input_ids=batch.to(device_of(model)), use_cache=False)
    return Chain(blocks, calls, start[:: len(blocks)])


@contextmanager
def _recording(
    blocks: dict[str, nn.Module], calls: dict[str, list[_Call]], seen: list[Tensor], in_tuple: bool
) -> Iterator[None]:
    """Every block returns what it is given inside the `with`; how it is called goes to `calls`, with what to `seen`."""

    def standing_in(path: str):
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            hidden, call = _taken_apart(args, kwargs)
            calls[path].append(call)
            seen.append(hidden)
            return (hidden,) if in_tuple else hidden

        return stand_in

    try:
        for path, block in blocks.items():
            block.forward = standing_in(path)
        yield
    finally:
        for block in blocks.values():
            del block.forward


def _check_chain(body: nn.Module, blocks: dict[str, nn.Module], few: Tensor) -> bool:
    """Whether blocks return their hidden states in a tuple. Raises unless each block gets what the last one made."""
    given: list[Tensor] = []
    made: list[Any] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        given.append(_taken_apart(args, kwargs)[0])

    def after(_: nn.Module, __: Any, out: Any) -> None:
        made.append(out)

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks.values()]
    handles += [block.register_forward_hook(after) for block in blocks.values()]
    try:
        body(input_ids=few, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    chained = len(given) == len(made) == len(blocks)
    if not chained or any(not torch.equal(_states(m), g) for m, g in zip(made, given[1:], strict=False)):
        raise SuperweightsError(
            f"The blocks of {type(body).__name__} do not simply follow one another.",
            hint="round it by another fit: --fit centred.",
        )
    return isinstance(made[0], tuple)


def _taken_apart(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, _Call]:
    """The hidden states that a block is called with, and all the rest."""
    if args:
        return args[0], _Call(tuple(args[1:]), dict(kwargs), None)
    named = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
    rest = {name: value for name, value in kwargs.items() if name != named}
    return kwargs[named], _Call((), rest, named)


def _states(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out
