"""The weights that were taken out of a checkpoint, with what it takes to put them back on the right base."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from superweights.address import Address
from superweights.errors import SuperweightsError

# Other weights of the same input neuron that are stored beside a kept one, to know its base again.
WITNESSES = 64
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class KeptWeight:
    """One weight, exactly: its address and value, and `witness`: output channels and weights of its column.

    `out_axis` says which axis of the stored matrix counts output channels: 0, or 1 for Conv1D.
    """

    address: Address
    value: float
    out_axis: int
    witness: tuple[tuple[int, float], ...]

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

    def to_json(self) -> str:
        """Readable JSON that `from_json` reads back, every value exactly."""
        weights = [{**asdict(w), "address": str(w.address)} for w in self.weights]
        data = {"schema_version": SCHEMA_VERSION, "fingerprint": self.fingerprint, "weights": weights}
        return json.dumps(data, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> SideCar:
        """The side-car that `to_json` wrote. Raises `SuperweightsError` for anything else."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data["schema_version"] != SCHEMA_VERSION:
                raise ValueError(data["schema_version"])  # noqa: TRY301 - told to the person below
            weights = tuple(
                KeptWeight(
                    Address.parse(w["address"]),
                    float(w["value"]),
                    int(w["out_axis"]),
                    tuple((int(channel), float(value)) for channel, value in w["witness"]),
                )
                for w in data["weights"]
            )
            return cls(weights, data["fingerprint"])
        except (ValueError, KeyError, TypeError) as error:
            raise SuperweightsError(
                "This is not a side-car of super weights.",
                hint="superweights peel writes super_weights.json.",
            ) from error


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
