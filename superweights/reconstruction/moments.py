"""Second moments of what linear layers read, gathered while a block runs; those that read one input share them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from superweights.quantization.linears import Linear, observed
from superweights.quantization.second_order import InputMoments

# A token whose input is longer than so many times the middle one counts as if it were that long: attention's sink
# carries super activations a thousand times the rest, and would be all that is fitted.
_LONGEST = 2.0


class Gathered:
    """The moments of `layers`, over all batches that run inside `exact()` and then `moved()`.

    Each batch runs twice: with the hidden states of the unrounded model, then with those of the rounded one.
    """

    def __init__(self, layers: tuple[Linear, ...]):
        self._layers = layers
        self._exact: dict[str, Tensor] = {}
        self._leader: dict[str, str] = {}
        self._second: dict[str, Tensor] = {}
        self._drift: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Remember the inputs of one batch of the unrounded model."""
        self._exact = {}
        seen: dict[int, str] = {}
        held = []

        def look(layer: Linear, x: Tensor) -> None:
            held.append(x)  # so that no other input takes its id while the block runs
            leader = seen.setdefault(id(x), layer.name)
            self._leader[layer.name] = leader
            if leader == layer.name:
                self._exact[leader] = x.reshape(-1, x.shape[-1])

        with observed(self._layers, look):
            yield

    @contextmanager
    def moved(self) -> Iterator[None]:
        """Gather from the inputs of the same batch in the rounded model."""

        def look(layer: Linear, x: Tensor) -> None:
            exact = self._exact.pop(layer.name, None)
            if exact is not None:
                self._add(layer.name, exact, x.reshape(-1, x.shape[-1]))

        with observed(self._layers, look):
            yield

    def moments(self, layer: Linear) -> InputMoments:
        """Those of one layer. One that was never reached has no second moment but 1 for every input."""
        leader = self._leader.get(layer.name)
        if leader is None or leader not in self._second:
            return InputMoments(torch.eye(layer.inputs))
        number = self._tokens[leader]
        return InputMoments((self._second[leader] / number).cpu(), (self._drift[leader] / number).cpu())

    def _add(self, name: str, exact: Tensor, moved: Tensor) -> None:
        size = moved.square().sum(1)
        middle = size.median()
        weight = (_LONGEST**2 * middle / size.clamp(min=1e-30)).clamp(max=1.0)
        weighted = moved * weight[:, None]
        second = weighted.T @ moved
        # experts may be sent other tokens by the rounded model: then nothing is known of the drift
        drift = (exact - moved).T @ weighted if exact.shape == moved.shape else torch.zeros_like(second)
        if name in self._second:
            self._second[name] += second
            self._drift[name] += drift
        else:
            self._second[name], self._drift[name] = second, drift
        self._tokens[name] = self._tokens.get(name, 0) + len(moved)
