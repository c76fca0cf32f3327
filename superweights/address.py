"""How one weight is named: the checkpoint's tensor and the index as stored there.

The convention, stated once for the whole house. A linear map is `y = W x`; `W[out_channel, in_neuron]`
multiplies input neuron `in_neuron` into output channel `out_channel`. Most checkpoints store `W` like
that (`torch.nn.Linear`), so an address reads `tensor[out_channel, in_neuron]`. GPT-2's `Conv1D` stores
the transpose and fused experts carry an expert index in front; an address always follows the *file*,
and `out_channel` and `in_neuron` say which is which.

Source for the need: the paper's own Figure 3 calls the input index "the row" (arXiv 2411.07191), and
re-implementations copied the slip.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from superweights.errors import SuperweightsError

_WRITTEN = re.compile(r"^\s*(?P<tensor>[^\[\]\s]+)\s*\[(?P<index>[^\[\]]*)\]\s*$")


@dataclass(frozen=True, order=True)
class Address:
    """One scalar of a checkpoint: `tensor[index]`, both exactly as the file stores them.

    >>> Address.parse("model.layers.11.mlp.down_proj.weight[507, 1229]")
    Address(tensor='model.layers.11.mlp.down_proj.weight', index=(507, 1229))
    >>> str(Address("model.norm.weight", (3,)))
    'model.norm.weight[3]'
    """

    tensor: str
    index: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.tensor:
            raise SuperweightsError("An address needs a tensor name.", hint=_EXAMPLE)
        if not self.index or any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in self.index):
            raise SuperweightsError(
                f"The index of {self.tensor} must be whole numbers from 0, got {self.index!r}.", hint=_EXAMPLE
            )

    def __str__(self) -> str:
        return f"{self.tensor}[{', '.join(map(str, self.index))}]"

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that `str(address)` wrote. Raises `SuperweightsError` for anything else."""
        match = _WRITTEN.match(text)
        try:
            index = tuple(int(part) for part in match["index"].split(",")) if match else ()
        except ValueError:
            index = ()
        if match is None or not index:
            raise SuperweightsError(f"{text!r} is not an address.", hint=_EXAMPLE)
        return cls(match["tensor"], index)

    @classmethod
    def several(cls, weights: Sequence[Address | str] | Address | str) -> list[Address]:
        """Addresses from whatever a person gives: one or many, as text or as addresses."""
        given = [weights] if isinstance(weights, Address | str) else weights
        return [each if isinstance(each, Address) else cls.parse(each) for each in given]

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise `SuperweightsError` unless this index lies inside a tensor of `shape`."""
        if len(self.index) != len(shape) or any(i >= n for i, n in zip(self.index, shape, strict=False)):
            raise SuperweightsError(
                f"{self} lies outside the tensor, whose shape is {list(shape)}.",
                hint="indices count from 0, as the checkpoint stores them: usually [out_channel, in_neuron].",
            )


_EXAMPLE = "write it like model.layers.11.mlp.down_proj.weight[507, 1229]"


class Layout(Protocol):
    """Where the checkpoint's scalars live in a loaded model: names differ, experts are fused, linears transposed.

    `stream` announces one for every model that it opens (`subject.layout_of`); a model without one keeps the
    checkpoint's names and indices (`SameNames`).
    """

    def parameter_of(self, address: Address) -> tuple[str, tuple[int, ...]]:
        """The model's parameter and the index in it that hold `address`."""
        ...

    def address_of(self, parameter: str, index: tuple[int, ...]) -> Address:
        """The checkpoint's own name for `parameter[index]`."""
        ...


class SameNames:
    """The layout of a model whose parameters are the checkpoint's tensors, name by name."""

    def parameter_of(self, address: Address) -> tuple[str, tuple[int, ...]]:
        return address.tensor, address.index

    def address_of(self, parameter: str, index: tuple[int, ...]) -> Address:
        return Address(parameter, index)
