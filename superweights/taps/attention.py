"""The inside of attention: the model's own eager function, seen through transformers' attention interface.

Our function stands in the interface under the name `eager`, whose mask transformers registers itself: under
a name without a mask, attention silently sees the future, and under a name of our own some families leave
out the part of their mask that they add for "eager" and "sdpa" only (the sparse indices of DeepSeek 3.2).
It hands q, k and v to whoever listens and then calls the eager function that the family itself defines, so
no arithmetic is imitated; logits and weights are the input and output of the softmax which that function,
or an attention module that ignores the interface, takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from superweights.taps.weighing import weighed

_EAGER = "eager"
_SOFTMAXES = (functional.softmax, torch.softmax, Tensor.softmax, weighed)


class Listener(Protocol):
    """Who is told about attention; see `opened_attention`."""

    def enter(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention begins in `module`: the q, k and v to go on with."""
        ...

    def leave(self, module: nn.Module) -> None:
        """Attention has ended in `module`."""
        ...

    def wants_softmax(self, module: nn.Module) -> bool:
        """Whether logits or weights of `module` are asked for."""
        ...

    def before_softmax(self, tensor: Tensor) -> Tensor:
        """A softmax is about to be taken: its input to go on with."""
        ...

    def after_softmax(self, tensor: Tensor) -> Tensor:
        """A softmax has been taken: its output to go on with."""
        ...


@contextmanager
def opened_attention(model: nn.Module, listener: Listener) -> Iterator[None]:
    """`model` with eager attention, and `listener` told about it; everything put back at the end.

    Layers whose softmax nobody wants go on with the implementation the model had, if that is `sdpa`.
    """
    held = [(config, config._attn_implementation) for config in _configs(model)]
    opened = _Opened({id(module) for module in model.modules()}, listener, held[0][1] if held else None)
    try:
        for config, _ in held:
            config._attn_implementation = _EAGER
        if ALL_ATTENTION_FUNCTIONS.get(_EAGER) is not _attend:
            opened.eager = ALL_ATTENTION_FUNCTIONS.get(_EAGER)
            ALL_ATTENTION_FUNCTIONS[_EAGER] = _attend
        elif _OPEN:
            opened.eager = _OPEN[-1].eager
        _OPEN.append(opened)
        with _SoftmaxMode(listener):
            yield
    finally:
        if opened in _OPEN:
            _OPEN.remove(opened)
        if not _OPEN and ALL_ATTENTION_FUNCTIONS.get(_EAGER) is _attend:
            if opened.eager is None:
                del ALL_ATTENTION_FUNCTIONS[_EAGER]
            else:
                ALL_ATTENTION_FUNCTIONS[_EAGER] = opened.eager
        for config, name in held:  # parents first: setting one sets its parts too
            config._attn_implementation = name


class _Opened:
    """A model whose attention is listened to; `eager` is what stood under that name before, if anything did."""

    def __init__(self, modules: set[int], listener: Listener, before: str | None):
        self.modules = modules
        self.listener = listener
        self.before = before
        self.eager: Callable | None = None


_OPEN: list[_Opened] = []


class _SoftmaxMode(TorchFunctionMode):
    """Shows every softmax to the listener, who knows whether it is attention's."""

    def __init__(self, listener: Listener):
        super().__init__()
        self._listener = listener

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _SOFTMAXES or not args:
            return func(*args, **kwargs)
        given = self._listener.before_softmax(args[0])
        return self._listener.after_softmax(func(given, *args[1:], **kwargs))


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The attention function of every eager model while one is opened: the family's own, with listeners."""
    opened = [each for each in _OPEN if id(module) in each.modules]
    for each in opened:
        query, key, value = each.listener.enter(module, query, key, value)
    try:
        return _inner(module, opened)(module, query, key, value, *args, **kwargs)
    finally:
        for each in opened:
            each.listener.leave(module)


def _inner(module: nn.Module, opened: list[_Opened]) -> Callable:
    """The function that computes: sdpa where the model had it and nobody looks inside, else the family's own."""
    fast = opened and all(e.before == "sdpa" and not e.listener.wants_softmax(module) for e in opened)
    if fast:
        return ALL_ATTENTION_FUNCTIONS["sdpa"]
    stood = opened[-1].eager if opened else None
    return stood or own_eager(module)


def own_eager(module: nn.Module) -> Callable:
    """The eager function of the file that defines the module's forward; every file of transformers has one."""
    for kind in type(module).__mro__:
        forward = kind.__dict__.get("forward")
        found = getattr(forward, "__globals__", {}).get("eager_attention_forward")
        if found is not None:
            return found
    raise NotImplementedError(f"{type(module).__name__} stands beside no eager_attention_forward")


def _configs(model: nn.Module) -> list[Any]:
    """Every configuration in the model that chooses an attention, each once, parents before their parts."""
    found: dict[int, Any] = {}

    def add(config: Any) -> None:
        if id(config) in found or not hasattr(config, "_attn_implementation"):
            return
        found[id(config)] = config
        for name in getattr(config, "sub_configs", ()):
            add(getattr(config, name, None))

    for module in model.modules():
        add(getattr(module, "config", None))
    return list(found.values())
