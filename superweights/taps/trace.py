"""One small batch through a model, with everything noted that tells where its sites are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from superweights.subject.calls import first_tensor, hidden_of, with_hidden

# What a model's own code raises when it is run in a way that it does not expect.
CANNOT_RUN = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, NotImplementedError)


@dataclass(eq=False)
class Call:
    """One call of a module: when it began and ended, its tensor inputs, its first tensor output (copies)."""

    path: str
    module: nn.Module
    start: int
    inputs: tuple[Tensor, ...]
    end: int = -1
    output: Tensor | None = None


@dataclass(eq=False)
class BlockTrace:
    """One run of a block: its residual stream before and after, and all that was called in between.

    `interface` are the modules that called transformers' attention function, each with its number of query heads,
    and `value_width` how wide the values of the latest such call were (what attention gives has heads of that width);
    `softmaxes` the modules that took an attention-shaped softmax, likewise. `mixes()` says whether a token's
    output depends on other tokens (None where the block cannot be run twice); ask while the block's weights
    are in memory.
    """

    path: str
    before: Tensor
    after: Tensor
    calls: list[Call] = field(default_factory=list)
    interface: list[tuple[str, int]] = field(default_factory=list)
    softmaxes: list[tuple[str, int]] = field(default_factory=list)
    value_width: int | None = None
    mixes: Callable[[], bool | None] = lambda: None


class Recorder:
    """Notes the blocks that a model runs; `on_block(trace)` is called at each one's end. Made by `recording`."""

    def __init__(
        self, model: nn.Module, blocks: dict[str, nn.Module], on_block: Callable[[BlockTrace], None]
    ):
        self.model = model
        self.blocks = blocks
        self.outside: list[Call] = []  # calls of leaves after the latest block
        self.last: Tensor | None = None  # the latest block's output
        self.first_input: Tensor | None = None
        self._on_block = on_block
        self._now: BlockTrace | None = None
        self._paths: dict[int, str] = {}
        self._open: list[Call] = []
        self._clock = 0
        self._paused = False

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """The model with our hooks on it."""
        inside = {id(m) for block in self.blocks.values() for m in block.modules()}
        handles: list[RemovableHandle] = []
        for path, block in self.blocks.items():
            handles.append(block.register_forward_pre_hook(self._begin(path), with_kwargs=True))
            # before the hook that drops a streamed block's weights
            handles.append(block.register_forward_hook(self._end(path), with_kwargs=True, prepend=True))
            for module in block.modules():
                if module is not block:
                    handles += self._watch(module, self._enter, self._leave)
        for path, module in self.model.named_modules():
            if id(module) not in inside and not any(module.children()):
                handles += self._watch(module, self._enter_outside(path), self._leave_outside)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def note_attention(self, query: Tensor, value: Tensor) -> None:
        """The attention function was called with `query [B, H, T, d_h]` and `value [B, H_kv, S, d_v]`."""
        if self._now is not None and not self._paused:
            self._now.value_width = value.shape[-1]
            self._now.interface.append(
                (self._open[-1].path if self._open else self._now.path, query.shape[1])
            )

    def note_softmax(self, tensor: Tensor) -> None:
        """A softmax was taken of `tensor`; attention's has as many columns as tokens, or one more (a sink)."""
        if self._now is None or self._paused or tensor.ndim < 3:
            return
        rows, tokens = self._now.before.shape[:2]
        if tensor.shape[-2] == tokens and tensor.shape[-1] in (tokens, tokens + 1):
            place = self._open[-1].path if self._open else self._now.path
            self._now.softmaxes.append((place, tensor.numel() // (rows * tokens * tensor.shape[-1])))

    def _watch(self, module: nn.Module, enter: Callable, leave: Callable) -> list[RemovableHandle]:
        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        ]

    def _begin(self, path: str) -> Callable:
        def begin(block: nn.Module, args: tuple, kwargs: dict) -> None:
            if self._paused:
                return
            hidden = hidden_of(args, kwargs)
            self.first_input = hidden if self.first_input is None else self.first_input
            self._now = BlockTrace(path, hidden.detach().clone(), hidden)
            self._paths = {id(module): f"{path}.{name}" for name, module in block.named_modules() if name}
            self.outside, self._open = [], []

        return begin

    def _end(self, path: str) -> Callable:
        def end(block: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
            if self._paused or self._now is None:
                return
            trace, self._now = self._now, None
            trace.after = self.last = first_tensor(out).detach().clone()
            trace.mixes = lambda: self._mixes(block, args, kwargs)
            self._on_block(trace)

        return end

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self._now is None or self._paused or id(module) not in self._paths:
            return
        self._clock += 1
        call = Call(self._paths[id(module)], module, self._clock, _copies(args, kwargs))
        self._now.calls.append(call)
        self._open.append(call)

    def _leave(self, module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        if self._now is None or self._paused or id(module) not in self._paths:
            return
        self._clock += 1
        call = self._open.pop()
        call.end, call.output = self._clock, _copy(out)

    def _enter_outside(self, path: str) -> Callable:
        def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self._clock += 1
            self.outside.append(Call(path, module, self._clock, _copies(args, kwargs)))

        return enter

    def _leave_outside(self, module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        call = next((c for c in reversed(self.outside) if c.module is module), None)
        if call is not None:
            call.output = _copy(out)

    def _mixes(self, block: nn.Module, args: tuple, kwargs: dict) -> bool | None:
        """Run the block again with another first token; do the others notice?"""
        hidden = hidden_of(args, kwargs)
        other = hidden.detach().clone()
        other[:, 0] = other[:, 0].roll(1, -1) * -2
        self._paused = True
        try:
            one, two = (first_tensor(block.forward(*with_hidden(args, kwargs, h)[0],
                                                   **with_hidden(args, kwargs, h)[1]))
                        for h in (hidden, other))  # fmt: skip
        except CANNOT_RUN:
            return None
        finally:
            self._paused = False
        return not torch.equal(one[:, 1:], two[:, 1:])


def _copies(args: tuple, kwargs: dict) -> tuple[Tensor, ...]:
    held = [*args, *kwargs.values()]
    return tuple(t.detach().clone() for t in held if isinstance(t, Tensor) and t.is_floating_point())


def _copy(out: Any) -> Tensor | None:
    parts = [out] if isinstance(out, Tensor) else out if isinstance(out, tuple | list) else []
    first = next((part for part in parts if isinstance(part, Tensor)), None)
    return first.detach().clone() if first is not None and first.is_floating_point() else None
