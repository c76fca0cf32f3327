"""An eye on every product of an activation with a parameter.

It watches the multiplication, not module names: a `TorchFunctionMode` sees each linear product, finds which
parameter its weight operand lies in by the memory it points at, and so knows the element `W[j, k]` of any
product in the parameter's own index: plain linears, GPT-2's transposed `Conv1D`, a slice of fused experts,
grouped kernels, a matrix cut out of a fused one. Scalars of norm gains and biases are seen as well.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Kind = Literal["weight", "gain", "bias"]


@dataclass(frozen=True, eq=False)
class Product:
    """One product as it was computed: `y = x W^T` (weight), `y = x * g` (gain) or `y = x + b` (bias).

    `x` is `[rows, in]` and `y` `[rows, out]`; each row is one token (of the tokens that an expert received,
    in fused experts). `operand` is `W [out, in]`, or `g` or `b` `[out]`, a view of the parameter. `shape` is
    the activation's own leading shape where rows are all tokens in order, else None.
    """

    kind: Kind
    parameter: str
    operand: Tensor
    x: Tensor
    y: Tensor
    shape: tuple[int, ...] | None
    _index: Callable[[int], tuple[int, ...]] = field(repr=False)

    def index(self, out_channel: int, in_neuron: int | None = None) -> tuple[int, ...]:
        """The parameter's own index of the element that joins these two."""
        strides = self.operand.stride()
        place = (out_channel,) if in_neuron is None else (out_channel, in_neuron)
        return self._index(sum(i * s for i, s in zip(place, strides, strict=True)))


@contextmanager
def watching(model: nn.Module, see: Callable[[Product], None]) -> Iterator[Watch]:
    """Call `see(product)` for every product with a parameter of `model` computed inside the `with`.

    The yielded watch can be paused: `watch.paused = True` lets products pass unseen.
    """
    watch = Watch(model, see)
    with watch:
        yield watch


class Watch(TorchFunctionMode):
    """The mode behind `watching`; `paused` makes it look away."""

    def __init__(self, model: nn.Module, see: Callable[[Product], None]):
        super().__init__()
        self._memory = ParameterMemory(model)
        self._see = see
        self.paused = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.paused:
            return result
        name = getattr(func, "__name__", "").split(".")[0].strip("_")
        reader = _READERS.get(name)
        if reader is not None:
            for kind, operand, x, y, shape in reader(self._memory, args, kwargs, result):
                self._tell(kind, operand, x, y, shape)
        elif name in _COPIES:
            self._memory.remember_copy(args, result)
        return result

    def _tell(self, kind: Kind, operand: Tensor, x: Tensor, y: Tensor, shape) -> None:
        found = self._memory.owner(operand)
        if found is not None and x.shape[0]:
            self._see(Product(kind, found[0], operand, x, y, shape, found[1]))


class ParameterMemory:
    """Which parameter a tensor's memory belongs to.

    Blocks come and go while a streamed model runs, and memory is used again: an entry counts only while
    its parameter still stands at that place.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._starts: list[int] = []
        self._entries: list[tuple[nn.Module, str, str, int]] = []

    def owner(self, tensor: Tensor) -> tuple[str, Callable[[int], tuple[int, ...]]] | None:
        """The name of the parameter that `tensor` is part of, and the map from element offset to its index."""
        tensor, shift = _origin(tensor)
        if tensor.is_meta:
            return None
        entry = self._look(tensor.data_ptr()) or (self._refresh() or self._look(tensor.data_ptr()))
        if entry is None:
            return None
        module, leaf, name, start = entry
        parameter = module._parameters[leaf]
        first = (tensor.data_ptr() - start) // parameter.element_size() + shift
        return name, lambda offset: _unravel(first + offset, parameter)

    def is_parameter(self, tensor: Any, dims: tuple[int, ...]) -> bool:
        """Whether `tensor` is a floating-point tensor of so many dimensions that lies in a parameter."""
        return (
            isinstance(tensor, Tensor)
            and tensor.dim() in dims
            and tensor.is_floating_point()
            and self.owner(tensor) is not None
        )

    def remember_copy(self, args: tuple, result: Any) -> None:
        """Note that `result` holds a parameter's elements in another type, or shifted or scaled by a number."""
        source = next((a for a in args if isinstance(a, Tensor) and a.dim() in (1, 2, 3)), None)
        if source is None or not isinstance(result, Tensor) or result is source:
            return
        if result.shape == source.shape and not any(isinstance(a, Tensor) and a is not source for a in args):
            if self.owner(source) is not None and result.data_ptr() != source.data_ptr():
                result._made_from = source
        elif getattr(source, "_made_from", None) is not None:
            result._made_from = None

    def _look(self, pointer: int):
        at = bisect.bisect_right(self._starts, pointer) - 1
        if at < 0:
            return None
        module, leaf, _, start = entry = self._entries[at]
        parameter = module._parameters.get(leaf)
        if parameter is None or parameter.is_meta or parameter.data_ptr() != start:
            return None
        return entry if pointer < start + max(parameter.nbytes, 1) else None

    def _refresh(self) -> None:
        entries, seen = [], set()
        for path, module in self._model.named_modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None and not parameter.is_meta and id(parameter) not in seen:
                    seen.add(id(parameter))
                    name = f"{path}.{leaf}" if path else leaf
                    entries.append((parameter.data_ptr(), name, module, leaf))
        entries.sort(key=lambda entry: entry[:2])
        self._starts = [start for start, *_ in entries]
        self._entries = [(module, leaf, name, start) for start, name, module, leaf in entries]


def _origin(tensor: Tensor) -> tuple[Tensor, int]:
    """The tensor whose memory lies in a parameter, for a converted copy of it, with the element shift."""
    source = getattr(tensor, "_made_from", None)
    while source is not None:
        tensor, source = source, getattr(source, "_made_from", None)
    return tensor, 0


def _unravel(offset: int, parameter: Tensor) -> tuple[int, ...]:
    """The index of the element `offset` places into a contiguous parameter."""
    index = []
    for stride in torch.empty(parameter.shape, device="meta").stride():
        index.append(offset // stride)
        offset %= stride
    return tuple(index)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1, tensor.shape[-1])


def _read_linear(memory, args, kwargs, y):
    x, weight, bias = _arguments(args, kwargs, ("input", "weight", "bias"))
    if memory.is_parameter(weight, (2,)):
        yield "weight", weight, _rows(x), _rows(y), tuple(x.shape[:-1])
    if memory.is_parameter(bias, (1,)):
        yield "bias", bias, _rows(y) - bias, _rows(y), tuple(y.shape[:-1])


def _read_matmul(memory, args, kwargs, y):
    left, right = _arguments(args, kwargs, ("input", "other"))
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return
    if memory.is_parameter(right, (2,)) and left.dim() >= 2:
        yield "weight", right.mT, _rows(left), _rows(y), tuple(left.shape[:-1])
    elif memory.is_parameter(left, (2,)) and right.dim() >= 2:
        turned = right.mT
        yield "weight", left, _rows(turned), _rows(y.mT), tuple(turned.shape[:-1])
    elif memory.is_parameter(right, (3,)) and left.dim() == 3:
        for e in range(right.shape[0]):
            yield "weight", right[e].mT, left[e], y[e], None
    elif memory.is_parameter(left, (3,)) and right.dim() == 3:
        for e in range(left.shape[0]):
            yield "weight", left[e], right[e].mT, y[e].mT, None


def _read_addmm(memory, args, kwargs, y):
    bias, x, weight = _arguments(args, kwargs, ("input", "mat1", "mat2"))
    yield from _read_matmul(memory, (x, weight), {}, y)
    if memory.is_parameter(bias, (1,)):
        yield "bias", bias, _rows(y) - bias, _rows(y), tuple(y.shape[:-1])


def _read_grouped(memory, args, kwargs, y):
    x, weight, offsets = _arguments(args, kwargs, ("input", "mat2", "offs"))
    if not memory.is_parameter(weight, (3,)) or offsets is None:
        return
    start = 0
    for e, end in enumerate(offsets.tolist()):
        if end > start:
            yield "weight", weight[e].mT, x[start:end], y[start:end], None
        start = end


def _read_norm(memory, args, kwargs, y):
    x, _, weight, bias = _arguments(args, kwargs, ("input", "normalized_shape", "weight", "bias"))
    shape = tuple(x.shape[:-1])
    shifted = _rows(y)
    if isinstance(bias, Tensor) and memory.is_parameter(bias, (1,)):
        yield "bias", bias, shifted - bias, shifted, shape
        shifted = shifted - bias
    if memory.is_parameter(weight, (1,)):
        yield "gain", weight, _rows(x), shifted, shape


def _read_multiply(memory, args, kwargs, y):
    left, right = _arguments(args, kwargs, ("input", "other"))
    for gain, x in ((right, left), (left, right)):
        if isinstance(x, Tensor) and x.dim() >= 2 and memory.is_parameter(gain, (1,)) and y.shape == x.shape:
            yield "gain", gain, _rows(x), _rows(y), tuple(x.shape[:-1])
            return
    memory.remember_copy(args, y)


def _read_add(memory, args, kwargs, y):
    left, right = _arguments(args, kwargs, ("input", "other"))
    for bias, x in ((right, left), (left, right)):
        if isinstance(x, Tensor) and x.dim() >= 2 and memory.is_parameter(bias, (1,)) and y.shape == x.shape:
            yield "bias", bias, _rows(x), _rows(y), tuple(x.shape[:-1])
            return
    memory.remember_copy(args, y)


def _arguments(args: tuple, kwargs: dict, names: tuple[str, ...]) -> list[Any]:
    """The call's arguments in the order of `names`, wherever the caller put them; None where absent."""
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]


# What each torch function's call looks like. Dunder and in-place spellings lose their underscores first.
_READERS = {
    "linear": _read_linear,
    "matmul": _read_matmul,
    "mm": _read_matmul,
    "bmm": _read_matmul,
    "addmm": _read_addmm,
    "baddbmm": _read_addmm,
    "grouped_mm": _read_grouped,
    "grouped_mm_fallback": _read_grouped,
    "layer_norm": _read_norm,
    "rms_norm": _read_norm,
    "mul": _read_multiply,
    "rmul": _read_multiply,
    "multiply": _read_multiply,
    "add": _read_add,
    "radd": _read_add,
}
_COPIES = {"to", "float", "bfloat16", "half", "double", "type", "contiguous", "clone", "type_as", "detach"}
