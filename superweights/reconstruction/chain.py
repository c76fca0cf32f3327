"""The blocks of a model one after the other, with the hidden states that go from each to the next in hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.subject import device_of, stream_of
from superweights.subject.blocks import find_blocks
from superweights.subject.calls import first_tensor, hidden_of, like_output, with_hidden

# Sequences that run together.
_BATCH = 8


# Positional and named arguments of one call of a block, its hidden states among them.
_Call = tuple[tuple[Any, ...], dict[str, Any]]


class Chain:
    """The blocks of a model by their paths, and `hidden`: the states `[sequences, tokens, channels]` of each batch."""

    def __init__(self, blocks: dict[str, nn.Module], calls: dict[str, list[_Call]], start: list[Tensor]):
        self.blocks = blocks
        self._calls = calls
        self.hidden = start

    def __len__(self) -> int:
        return len(self.hidden)

    def through(self, path: str, place: int) -> Tensor:
        """The hidden states of batch `place` after the block at `path`; those of the chain stay as they are."""
        args, kwargs = with_hidden(*self._calls[path][place], self.hidden[place])
        return first_tensor(self.blocks[path](*args, **kwargs))


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
    out = _check_chain(body, blocks, tokens[:1, : min(4, tokens.shape[1])].to(device_of(model)))
    calls: dict[str, list[_Call]] = {path: [] for path in blocks}
    start: list[Tensor] = []
    stream = stream_of(model)
    asleep: Any = nullcontext() if stream is None else stream.asleep()  # type: ignore[attr-defined]
    with asleep, _recording(blocks, calls, start, out):
        for batch in tokens.split(_BATCH):
            body(input_ids=batch.to(device_of(model)), use_cache=False)
    return Chain(blocks, calls, start[:: len(blocks)])


@contextmanager
def _recording(
    blocks: dict[str, nn.Module], calls: dict[str, list[_Call]], seen: list[Tensor], out: Any
) -> Iterator[None]:
    """Every block returns what it is given inside the `with`; how it is called goes to `calls`, with what to `seen`."""

    def standing_in(path: str):
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            calls[path].append((args, kwargs))
            seen.append(hidden_of(args, kwargs))
            return like_output(out, seen[-1])

        return stand_in

    try:
        for path, block in blocks.items():
            block.forward = standing_in(path)
        yield
    finally:
        for block in blocks.values():
            del block.forward


def _check_chain(body: nn.Module, blocks: dict[str, nn.Module], few: Tensor) -> Any:
    """What a block returns, for its form. Raises unless each block gets what the last one made."""
    given: list[Tensor] = []
    made: list[Any] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        given.append(hidden_of(args, kwargs))

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
    if not chained or any(not torch.equal(first_tensor(m), g) for m, g in zip(made, given[1:], strict=False)):
        raise SuperweightsError(
            f"The blocks of {type(body).__name__} do not simply follow one another.",
            hint="round it by another fit: --fit centred.",
        )
    return made[0]
