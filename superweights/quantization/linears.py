"""The linear layers of a model whose inputs are rounded, and one way to stand in for their forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from superweights.axes import Float
from superweights.errors import SuperweightsError
from superweights.quantization.activation_scheme import ActivationScheme, HeldPlace


@dataclass(frozen=True, eq=False)
class Linear:
    """One linear layer: its name in the model, and which axis of its weight is the output."""

    name: str
    module: nn.Module
    """The layer itself."""
    out_axis: int
    """0 for nn.Linear, 1 for Conv1D."""

    @property
    def weight(self) -> Tensor:
        """The weight as the module holds it now."""
        return self.module.get_parameter("weight")

    @property
    def bias(self) -> Tensor | None:
        """The bias as the module holds it now."""
        return getattr(self.module, "bias", None)

    @property
    def inputs(self) -> int:
        """How many input channels it has."""
        return self.weight.shape[1 - self.out_axis]


def linears_of(model: nn.Module, scheme: ActivationScheme | None = None) -> tuple[Linear, ...]:
    """Every nn.Linear and Conv1D of `model` but the output head, in the order of its modules.

    Fused experts are parameters without a layer of their own, and are not among them. Raises
    `SuperweightsError` where none is left, a pattern of the scheme matches nothing, or a layer is quantized.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = [
        Linear(name, module, 1 if hasattr(module, "nf") else 0)
        for name, module in model.named_modules()
        if module is not head and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    ]
    if scheme is not None:
        _check_patterns([linear.name for linear in found], scheme)
        found = [linear for linear in found if not scheme.skips(linear.name)]
    if not found:
        raise SuperweightsError(
            f"{type(model).__name__} has no linear layer to round.",
            hint="the scheme skips all of them, or the model keeps its weights in fused experts.",
        )
    for linear in found:
        if not _is_plain(linear.module):
            raise SuperweightsError(
                f"{linear.name} is a {type(linear.module).__name__}: it is quantized or wrapped already.",
                hint="open the original checkpoint, without a quantization config or adapters.",
            )
    return tuple(found)


def _is_plain(module: nn.Module) -> bool:
    """Whether the layer multiplies by its weight and adds its bias, and does nothing else.

    A class with a forward pass of its own is asked for a product (the slots of a grown TokenFormer are added in
    another order, and are one); what is packed, wrapped or not in memory is none.
    """
    if type(module).__name__ == "Conv1D" or type(module).forward is nn.Linear.forward:
        return True
    weight = getattr(module, "weight", None)
    if (
        not isinstance(weight, Tensor)
        or weight.is_meta
        or not weight.is_floating_point()
        or weight.dim() != 2
    ):
        return False
    probe = (
        torch.linspace(-1, 1, 2 * weight.shape[1], device=weight.device).cos().view(2, -1).to(weight.dtype)
    )
    bias = getattr(module, "bias", None)
    with torch.no_grad():
        wanted, given = nn.functional.linear(probe, weight, bias), module(probe)
    error = 1e-4 if weight.dtype == torch.float32 else 2e-2
    return given.shape == wanted.shape and bool((given - wanted).norm() <= error * wanted.norm())


def places_in(module: str, scheme: ActivationScheme) -> tuple[HeldPlace, ...]:
    """The listed places of one layer."""
    return tuple(place for place in scheme.hold.places if place.is_in(module))


@contextmanager
def replaced(linears: tuple[Linear, ...], forward: Callable[[Linear, Tensor], Tensor]) -> Iterator[None]:
    """Every layer answers with `forward(layer, x)` inside the `with`; afterwards with its own forward again."""
    before = [linear.module.__dict__.get("forward") for linear in linears]
    try:
        for linear in linears:
            linear.module.forward = _standing_in(linear, forward)
        yield
    finally:
        for linear, own in zip(linears, before, strict=True):
            if own is None:
                linear.module.__dict__.pop("forward", None)
            else:
                linear.module.forward = own


def _looked_at(look: Callable[[Linear, Tensor], None], linear: Linear, module: Any, inputs: Any) -> None:
    look(linear, inputs[0])


@contextmanager
def observed(linears: tuple[Linear, ...], look: Callable[[Linear, Tensor], None]) -> Iterator[None]:
    """`look(layer, x)` at every layer's input inside the `with`; the model computes as it is."""
    hooks = [
        linear.module.register_forward_pre_hook(partial(_looked_at, look, linear), prepend=True)
        for linear in linears
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _standing_in(linear: Linear, forward: Callable[[Linear, Tensor], Tensor]):
    def stand_in(x: Tensor) -> Tensor:
        return forward(linear, x)

    return stand_in


def tokens_of(x: Float[Tensor, "... channels"]) -> tuple[Float[Tensor, "tokens channels"], int]:
    """`x [..., channels]` as float32 `[tokens, channels]`, and how many sequences they come from."""
    return x.detach().float().reshape(-1, x.shape[-1]), x.shape[0] if x.dim() > 2 else 1


class LatestInput:
    """Whether an input is the very one that was looked at last: readers of one tensor come one after the other."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, int | None] | None = None

    def is_new(self, x: Tensor) -> bool:
        """Whether `x` is another tensor than at the last call, or the same with something written into it since."""
        before, self._seen = self._seen, (x, version_of(x))
        return before is None or before[0] is not x or before[1] != self._seen[1]


def version_of(x: Tensor) -> int | None:
    """A number that changes whenever `x` is written to; None under `torch.inference_mode`, which counts none."""
    return None if x.is_inference() else x._version


def largest_along(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """The largest |x| along `dim`, with no copy of |x| made (ten times as fast as `aminmax` along the last one)."""
    return torch.maximum(x.amax(dim, keepdim), -x.amin(dim, keepdim))


def _check_patterns(names: list[str], scheme: ActivationScheme) -> None:
    for pattern in scheme.skip:
        if not any(ActivationScheme(skip=(pattern,)).skips(name) for name in names):
            raise SuperweightsError(
                f"No linear layer is called {pattern!r}, which the scheme skips.",
                hint=f"names look like {names[0]!r}; patterns take * and ?."
                if names
                else "there is no layer.",
            )
    for place in scheme.hold.places:
        if not any(place.is_in(name) for name in names):
            raise SuperweightsError(
                f"No linear layer is called {place.module!r}, where {place} should be held out.",
                hint=f"names look like {names[0]!r}; patterns take * and ?."
                if names
                else "there is no layer.",
            )
