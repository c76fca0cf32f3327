"""An eye on every product of an activation with a parameter.

It watches the multiplication, not module names: a `TorchFunctionMode` sees each linear product, finds which
parameter its weight operand lies in by the memory it points at, and so knows the element `W[j, k]` of any
product in the parameter's own index: plain linears, GPT-2's transposed `Conv1D`, a slice of fused experts,
grouped kernels, a matrix cut out of a fused one. Scalars of norm gains and biases are seen as well.

Where processes share a model each multiplies with its slice: what is told is the whole product, in each of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from superweights import shards

Kind = Literal["weight", "gain", "bias"]


@dataclass(frozen=True, eq=False)
class Product:
    """One product as it was computed: `y = x W^T` (weight), `y = x * g` (gain) or `y = x + b` (bias).

    `x` is `[rows, in]` and `y` `[rows, out]`; each row is one token (of the tokens that an expert received,
    in fused experts). `shape` is the activation's own leading shape where rows are all tokens in order, else None.
    """

    kind: Kind
    """weight, gain or bias."""
    parameter: str
    """The parameter's name in the running model."""
    x: Tensor
    y: Tensor
    shape: tuple[int, ...] | None
    _operand: Callable[[], Tensor] = field(repr=False)
    _index: Callable[[int], tuple[int, ...]] = field(repr=False)
    _columns: Callable[[int], Tensor | None] | None = field(default=None, repr=False)
    """Of a shared product: the column of the output in this process, or None where another one adds to it."""

    @cached_property
    def operand(self) -> Tensor:
        """`W [out, in]`, or `g` or `b` `[out]`: a view of the parameter, a copy where processes share it."""
        return self._operand()

    def add(self, channel: int, terms: Tensor) -> None:
        """Add `terms [rows]` to a channel of the output, before the model goes on with it."""
        column = self.y[:, channel] if self._columns is None else self._columns(channel)
        if column is not None:
            column += terms.to(column.dtype)

    def index(self, out_channel: int, in_neuron: int | None = None) -> tuple[int, ...]:
        """The parameter's own index of the element that joins these two."""
        place = (out_channel,) if in_neuron is None else (out_channel, in_neuron)
        return self._index(_offset(place, self.operand))


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
        if found is None or not x.shape[0]:
            return
        shared = self._memory.shared(operand)
        if shared is None:
            self._see(Product(kind, found[0], x, y, shape, lambda: operand, found[1]))
        elif not self._memory.is_aside(found[0]):
            bias = self._memory.bias_beside(found[0])
            self._see(_whole(kind, found[0], shared, x, y, shape, bias))


class ParameterMemory:
    """Which parameter a tensor is a view of, or a converted copy of.

    Blocks come and go while a streamed model runs, so parameters are known by identity and only weakly.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._names: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._sources: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        # The parameters that several processes share, by the memory of this one's slices.
        self._slices: dict[tuple, tuple[str, Any]] = {}
        self._biases: dict[str, Tensor] = {}
        for name, held in model.named_parameters():
            if shards.is_shared(held):
                self._slices[_memory_of(shards.local(held))] = name, held
                if name.endswith("bias"):
                    self._biases[name] = shards.local(held)

    def shared(self, tensor: Tensor) -> Any:
        """The parameter that processes share of which `tensor` is this one's slice; None for any other."""
        found = self._slices.get(_memory_of(tensor)) if self._slices else None
        return None if found is None else found[1]

    def bias_beside(self, name: str) -> Tensor | None:
        """What is added to the sum of the processes' products with the matrix `name`; None for nothing."""
        # Not asked of the module, from which transformers takes the bias away while it multiplies.
        return self._biases.get(name.removesuffix("weight") + "bias") if name.endswith("weight") else None

    def is_aside(self, name: str) -> bool:
        """Whether each process uses the parameter on rows of its own (norms of single heads): never the stream's."""
        plan = getattr(self._model, "tp_plan", None) or {}
        module = re.sub(r"\.\d+\.", ".*.", name.rpartition(".")[0])
        return plan.get(module) == "replicated_with_grad_allreduce"

    def owner(self, tensor: Tensor) -> tuple[str, Callable[[int], tuple[int, ...]]] | None:
        """The parameter that `tensor` is part of, and the map from an element's offset in it to its index there."""
        if self._slices and (slice_ := self._slices.get(_memory_of(tensor))) is not None:
            return slice_[0], lambda offset: _unravel(offset, slice_[1])
        root = tensor if tensor._base is None else tensor._base
        first = int(tensor.storage_offset()) - int(root.storage_offset())
        if isinstance(root, nn.Parameter):
            name = self._name_of(root)
            return None if name is None else (name, lambda offset: _unravel(first + offset, root))
        source = self._sources.get(root)
        found = None if source is None else self.owner(source)
        if source is None or found is None:
            return None
        name, index_of = found
        return name, lambda offset: index_of(_offset(_unravel(first + offset, root), source))

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
        tensors = [a for a in args if isinstance(a, Tensor)]
        if len(tensors) != 1 or not isinstance(result, Tensor) or result.shape != tensors[0].shape:
            return
        if result is not tensors[0] and result._base is None and self.owner(tensors[0]) is not None:
            self._sources[result] = tensors[0]

    def _name_of(self, parameter: nn.Parameter) -> str | None:
        if parameter not in self._names:
            for name, held in self._model.named_parameters():
                self._names[held] = name
        return self._names.get(parameter)


def _memory_of(tensor: Tensor) -> tuple:
    """Where a tensor lies, and as what."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _whole(
    kind: Kind, name: str, parameter: Any, x: Tensor, y: Tensor, shape: Any, bias: Tensor | None
) -> Product:
    """The product with all of a parameter, of which this process has computed its share.

    transformers adds the `bias` of a matrix cut along its inputs when the shares have been summed.
    """
    axis = shards.axis_of(parameter)
    width = parameter.shape[0]
    columns = partial(_own_column, parameter, axis, y)
    if kind != "weight" and axis is not None:
        x = shards.gathered(x, parameter, width)
    if axis == parameter.ndim - 1 and kind == "weight":
        x, y = shards.gathered(x, parameter, parameter.shape[1]), shards.summed(y, parameter)
        y = y if bias is None else y + bias
    elif axis is not None:
        y = shards.gathered(y, parameter, width)
    operand = partial(shards.whole, parameter)
    return Product(kind, name, x, y, shape, operand, partial(_unravel, tensor=parameter), columns)


def _own_column(parameter: Any, axis: int | None, y: Tensor, channel: int) -> Tensor | None:
    """The column of `y`, this process's output, that is to be added to so that the whole output has it once."""
    if axis is None:
        return y[:, channel]
    if parameter.ndim > 1 and axis == 1:  # the processes' outputs are added up: one of them adds
        return y[:, channel] if shards.is_owner(parameter, (channel, 0)) else None
    place = (channel, *[0] * (parameter.ndim - 1))
    return y[:, shards.place(parameter, place)[0]] if shards.is_owner(parameter, place) else None


def _unravel(offset: int, tensor: Tensor) -> tuple[int, ...]:
    """The index of the element `offset` places into a contiguous tensor."""
    assert tensor.is_contiguous(), "parameters and their copies are contiguous"
    return tuple(offset // stride % size for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _offset(index: tuple[int, ...], tensor: Tensor) -> int:
    return sum(i * stride for i, stride in zip(index, tensor.stride(), strict=True))


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
