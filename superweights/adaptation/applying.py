"""An expert on and off a model: weights composed in place of the base's, which come back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from superweights.adaptation.factors import Factors
from superweights.adaptation.matrices import dense_parameter, is_packed
from superweights.errors import SuperweightsError


@contextmanager
def turned(
    model: nn.Module, factors: Mapping[str, Factors], z: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """`model` with each matrix of `z` turned, for the length of the `with`; yields the composed weights by path.

    Dense layers compute with `W + U diag(sigma (z - 1)) Vh`, made once, at the base's own speed; packed ones keep
    their codes and add the second term to their output. A matrix whose z is all 1 is not touched. Afterwards every
    parameter holds its own storage again: nothing is subtracted, so nothing is rounded.
    """
    with ExitStack() as stack:
        composed: dict[str, Tensor] = {}
        for path, each in z.items():
            held = factors.get(path)
            if held is None or len(held) != len(each):
                raise SuperweightsError(
                    f"The expert turns {len(each)} singular values of {path}, and there are "
                    f"{0 if held is None else len(held)}.",
                    hint="it was made for another model, or another rank.",
                )
            if bool((each == 1).all()):
                continue
            module = model.get_submodule(path)
            if is_packed(module):
                stack.enter_context(beside(module, held, each.detach()))
            else:
                composed[path] = composed_weight(module, path, held, each.detach())
        stack.enter_context(standing_in(model, composed))
        yield composed


def composed_weight(module: nn.Module, path: str, factors: Factors, z: Tensor) -> Tensor:
    """The weight of a dense layer with its singular values turned by z, as the layer stores it."""
    weight = dense_parameter(module, path).data
    added = factors.to(weight.device).delta(z.to(weight.device))
    return (weight.float() + (added.T if isinstance(module, Conv1D) else added)).to(weight.dtype)


@contextmanager
def standing_in(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The linear layers at these paths compute with `weights`, shaped as they store theirs, inside the `with`."""
    parameters = {path: dense_parameter(model.get_submodule(path), path) for path in weights}
    kept = {path: parameter.data for path, parameter in parameters.items()}
    try:
        for path, weight in weights.items():
            parameters[path].data = weight
        yield
    finally:
        for path, parameter in parameters.items():
            parameter.data = kept[path]


@contextmanager
def beside(module: nn.Module, factors: Factors, z: Tensor) -> Iterator[None]:
    """A layer that adds `U diag(sigma (z - 1)) Vh x` to its output inside the `with`; z may need a gradient.

    Nothing of the size of the matrix is made: `k (inputs + outputs)` multiplications per token more.
    """

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        held = _cast(factors, x)
        inner = nn.functional.linear(x, held.Vh) * (held.sigma * (z.to(x.device) - 1)).to(x.dtype)
        return output + nn.functional.linear(inner, held.U)

    kept: dict[tuple[torch.device, torch.dtype], Factors] = {}

    def _cast(held: Factors, x: Tensor) -> Factors:
        key = (x.device, x.dtype)
        if key not in kept:
            cast = held.to(x.device, x.dtype)
            kept[key] = Factors(
                cast.U, held.sigma.to(x.device), cast.Vh, held.method, held.error, held.energy
            )
        return kept[key]

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def in_place_of(module: nn.Module, factors: Factors, z: Tensor) -> Iterator[None]:
    """A dense layer that computes `U diag(sigma z) Vh x` instead of `W x` inside the `with`; z may need a gradient.

    For factors that are whole (see `is_whole`): the same function as `beside`, rounded as float32 rounds, and the
    product with W is saved, forth and back.
    """
    bias: Tensor | None = getattr(module, "bias", None)

    def forward(x: Tensor) -> Tensor:
        inner = nn.functional.linear(x, Vh) * (sigma * z.to(x.device))
        return nn.functional.linear(inner, U, bias)

    held = factors.to(dense_parameter(module, "the layer").device)
    U, sigma, Vh = held.U, held.sigma, held.Vh
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def is_whole(module: nn.Module, factors: Factors) -> bool:
    """Whether the factors are all of the layer's weight, in the type it computes in: float32, nothing left out."""
    if is_packed(module) or factors.method != "full":
        return False
    weight = dense_parameter(module, "the layer")
    return weight.dtype == torch.float32 and len(factors) == min(weight.shape)
