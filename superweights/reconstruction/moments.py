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
    """The moments of `layers`, over all batches that run inside `gathering()`."""

    def __init__(self, layers: tuple[Linear, ...]):
        self._layers = layers
        self._leader: dict[str, str] = {}
        self._second: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Gather from the inputs of one batch."""
        seen: dict[int, str] = {}
        held = []

        def look(layer: Linear, x: Tensor) -> None:
            held.append(x)  # so that no other input takes its id while the block runs
            leader = self._leader[layer.name] = seen.setdefault(id(x), layer.name)
            if leader == layer.name:
                self._add(layer.name, x.reshape(-1, x.shape[-1]))

        with observed(self._layers, look):
            yield

    def moments(self, layer: Linear) -> InputMoments:
        """Those of one layer. One that was never reached has no second moment but 1 for every input."""
        leader = self._leader.get(layer.name)
        if leader is None:
            return InputMoments(torch.eye(layer.inputs))
        return InputMoments((self._second[leader] / max(self._tokens[leader], 1)).cpu())

    def _add(self, name: str, x: Tensor) -> None:
        size = x.square().sum(1)
        weight = torch.ones_like(size)
        if len(size):  # an expert may be sent no token at all
            weight = (_LONGEST**2 * size.median() / size.clamp(min=1e-30)).clamp(max=1.0)
        second = (x * weight[:, None]).T @ x
        self._second[name] = self._second[name] + second if name in self._second else second
        self._tokens[name] = self._tokens.get(name, 0) + len(x)
