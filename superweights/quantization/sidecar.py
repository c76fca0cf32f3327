"""The weights that were taken out of a checkpoint, with what it takes to put them back on the right base."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import torch

from superweights.address import Address
from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import Between, shaped
from superweights.errors import SuperweightsError

# Other weights of the same input neuron that are stored beside a kept one, to know its base again.
WITNESSES = 64
SCHEMA_VERSION = 1
# A number that float32, the widest type that adapters are written in, can hold.
Weight = Annotated[float, Between(-3.4028234663852886e38, 3.4028234663852886e38)]


@dataclass(frozen=True)
class KeptWeight:
    """One weight, exactly: its address and value, and `witness`: output channels and weights of its column.

    `out_axis` says which axis of the stored matrix counts output channels: 0, or 1 for Conv1D.
    """

    address: Address
    value: Weight
    out_axis: Literal[0, 1]
    witness: tuple[tuple[Annotated[int, Between(0, 2**31)], Weight], ...]

    def __post_init__(self) -> None:
        if len(self.address.index) != 2:
            raise SuperweightsError(
                f"{self.address} is no weight of a matrix, and only those can be put back beside a linear map.",
                hint="for fused experts keep the whole tensor in high precision.",
            )

    @property
    def out_channel(self) -> int:
        """The output channel that this weight feeds."""
        return self.address.index[self.out_axis]

    @property
    def in_neuron(self) -> int:
        """The input that this weight multiplies."""
        return self.address.index[1 - self.out_axis]

    def likeness(self, column: torch.Tensor) -> float | None:
        """The cosine between the witness and the same weights of `column`; None where nothing can be said."""
        pairs = [(value, float(column[channel])) for channel, value in self.witness if channel < len(column)]
        sizes = [math.sqrt(sum(pair[side] ** 2 for pair in pairs)) for side in (0, 1)]
        if len(pairs) < 8 or not all(sizes):
            return None
        return sum(a * b for a, b in pairs) / (sizes[0] * sizes[1])


@dataclass(frozen=True)
class SideCar:
    """All weights that were taken out, and the fingerprint of the checkpoint that they came from.

    The fingerprint names the original. A base that was quantized since has other bytes, so that it is known
    by the witnesses instead.
    """

    weights: tuple[KeptWeight, ...]
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        seen: set[Address] = set()
        for kept in self.weights:
            if kept.address in seen:
                raise SuperweightsError(
                    f"{kept.address} stands in the side-car twice.", hint="it would be put back twice."
                )
            seen.add(kept.address)

    def to_json(self) -> str:
        """Readable JSON that `from_json` reads back, every value exactly."""
        weights = [{**asdict(w), "address": str(w.address)} for w in self.weights]
        data = {"schema_version": SCHEMA_VERSION, "fingerprint": self.fingerprint, "weights": weights}
        return json.dumps(data, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the side-car") -> SideCar:
        """The side-car that `to_json` wrote. Raises `SuperweightsError` naming `where` and the field otherwise."""
        hint = "superweights peel writes super_weights.json."
        held = shaped(_Stored, parse_json(text, where, hint=hint), where, hint, "whole")
        return cls(held.weights, held.fingerprint)


@dataclass(frozen=True)
class _Stored:
    """A side-car as it stands in a file."""

    schema_version: Literal[1]
    fingerprint: str | None
    weights: tuple[KeptWeight, ...]

    def __post_init__(self) -> None:
        SideCar(self.weights, self.fingerprint)


def kept_weights(
    tensor: str, weight: torch.Tensor, indices: Sequence[tuple[int, ...]], out_axis: int = 0
) -> tuple[KeptWeight, ...]:
    """The weights of one matrix at `indices`, each with its witness. Raises `SuperweightsError` if outside."""
    if weight.dim() != 2 or out_axis not in (0, 1):
        raise SuperweightsError(
            f"{tensor} has shape {list(weight.shape)}: only weights of a matrix can be put back beside a linear map.",
            hint="for fused experts keep the whole tensor in high precision.",
        )
    found = []
    for index in indices:
        address = Address(tensor, tuple(index))
        address.check_shape(tuple(weight.shape))
        column = weight.select(1 - out_axis, index[1 - out_axis])
        taken = {i[out_axis] for i in indices if i[1 - out_axis] == index[1 - out_axis]}
        others = [channel for channel in range(len(column)) if channel not in taken]
        shown = others[:: max(1, len(others) // WITNESSES)][:WITNESSES]
        witness = tuple((channel, float(column[channel])) for channel in shown)
        found.append(KeptWeight(address, float(weight[tuple(index)]), out_axis, witness))
    return tuple(found)
