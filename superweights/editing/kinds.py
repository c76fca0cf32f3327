"""An edit: one weight and what becomes of it; and the edits that experiments ask for by name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from superweights.address import Address
from superweights.errors import SuperweightsError

_EXAMPLE = (
    "write TENSOR[i, j]=FACTOR to multiply (0 ablates) or TENSOR[i, j]:=VALUE to set, "
    "for example model.layers.11.mlp.down_proj.weight[507, 1229]=0"
)


@dataclass(frozen=True)
class Edit:
    """One weight and what becomes of it: `factor` times what is there, or `value` in its place.

    Exactly one of the two is given, and it is finite; `SuperweightsError` otherwise. `str` and `parse` are
    inverse: `tensor[i, j]=factor`, `tensor[i, j]:=value`.
    """

    address: Address
    """Which weight."""
    factor: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        if (self.factor is None) == (self.value is None):
            raise SuperweightsError(f"An edit of {self.address} needs a factor or a value.", hint=_EXAMPLE)
        for name in ("factor", "value"):
            number = getattr(self, name)
            if number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise SuperweightsError(
                    f"The {name} for {self.address} must be a finite number, got {number!r}.", hint=_EXAMPLE
                )
            object.__setattr__(self, name, float(number))

    def __str__(self) -> str:
        return f"{self.address}:={self.value!r}" if self.factor is None else f"{self.address}={self.factor!r}"

    @classmethod
    def parse(cls, text: str) -> Edit:
        """The edit written as `TENSOR[i, j]=FACTOR` or `TENSOR[i, j]:=VALUE`."""
        place, bracket, change = text.rpartition("]")
        change = change.strip()
        sign = ":=" if change.startswith(":=") else "="
        if not bracket or not change.startswith(sign):
            raise SuperweightsError(f"{text!r} is not an edit.", hint=_EXAMPLE)
        try:
            number = float(change.removeprefix(sign))
        except ValueError:
            raise SuperweightsError(f"{text!r} does not end in a number.", hint=_EXAMPLE) from None
        address = Address.parse(place + bracket)
        return cls(address, value=number) if sign == ":=" else cls(address, factor=number)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` reads back; the address is one string."""
        kind = "value" if self.factor is None else "factor"
        return {"address": str(self.address), kind: getattr(self, kind)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Edit:
        """The edit that `to_json` wrote."""
        if not isinstance(data, dict) or "address" not in data or set(data) - {"address", "factor", "value"}:
            raise SuperweightsError(f"{data!r} is not an edit.", hint=_EXAMPLE)
        return cls(Address.parse(data["address"]), data.get("factor"), data.get("value"))

    def applied_to(self, before: float) -> float:
        """What this edit makes of a weight that is `before`, before rounding to the tensor's type."""
        if self.factor is None:
            assert self.value is not None
            return self.value
        return 0.0 if self.factor == 0 else before * self.factor


def zero(addresses: Address | Iterable[Address]) -> tuple[Edit, ...]:
    """Edits that ablate each weight."""
    return scale(addresses, 0.0)


def scale(addresses: Address | Iterable[Address], factor: float) -> tuple[Edit, ...]:
    """Edits that multiply each weight by `factor`."""
    return tuple(Edit(address, factor=factor) for address in _each(addresses))


def assign(addresses: Address | Iterable[Address], value: float) -> tuple[Edit, ...]:
    """Edits that set each weight to `value`."""
    return tuple(Edit(address, value=value) for address in _each(addresses))


def flip_sign(addresses: Address | Iterable[Address]) -> tuple[Edit, ...]:
    """Edits that turn each weight into its negative."""
    return scale(addresses, -1.0)


def halve(addresses: Address | Iterable[Address]) -> tuple[Edit, ...]:
    """Edits that halve each weight."""
    return scale(addresses, 0.5)


def double(addresses: Address | Iterable[Address]) -> tuple[Edit, ...]:
    """Edits that double each weight."""
    return scale(addresses, 2.0)


def randomise(addresses: Address | Iterable[Address], seed: int) -> tuple[Edit, ...]:
    """Edits that replace each weight `w` by a draw from the normal distribution N(0, w²), seeded.

    The replacement has the size of the weight (root mean square |w|) and says nothing of its sign or exact
    value: the control that tells "a large number must stand here" from "this number must". One draw may
    land near `w` by chance, so average over seeds. The same seed gives each address the same draw whatever
    the others are.
    """
    return tuple(Edit(address, factor=_normal(f"{seed} {address}")) for address in _each(addresses))


def spread(
    address: Address,
    over: Iterable[int],
    value_of: Callable[[Address], float],
    *,
    in_axis: int = -1,
) -> tuple[Edit, ...]:
    """Edits that zero one weight `w` and add `w / n` to `n` others of its row, so that the row keeps its sum.

    `over` are the input neurons that take a share; `value_of` gives the present value of any weight
    (`Checkpoint.element`, or `weight_value` of a loaded model). `in_axis` is the place of the input neuron
    in the address: last, but for transposed storage (GPT-2: 0).

    Source: the variant "spread over 8 weights", reported as harmful for OLMo-1B where halving is not.
    """
    neurons = list(over)
    if not neurons or len(set(neurons)) < len(neurons) or address.index[in_axis] in neurons:
        raise SuperweightsError(
            f"{address} can only be spread over other neurons, each named once; got {neurons}.",
            hint="give the indices of at least one other input neuron of the same row.",
        )
    share = value_of(address) / len(neurons)
    others = [_replace_index(address, in_axis, neuron) for neuron in neurons]
    return (Edit(address, factor=0.0), *(Edit(other, value=value_of(other) + share) for other in others))


def _each(addresses: Address | Iterable[Address]) -> list[Address]:
    return [addresses] if isinstance(addresses, Address) else list(addresses)


def _replace_index(address: Address, axis: int, new: int) -> Address:
    index = list(address.index)
    index[axis] = new
    return Address(address.tensor, tuple(index))


def _normal(seed: str) -> float:
    """One standard normal draw that depends on `seed` alone."""
    number = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=7).digest(), "big")
    return torch.randn((), generator=torch.Generator().manual_seed(number), dtype=torch.float64).item()
