"""What adaptation does to super weights: how far it moves them, and whether the model still needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from superweights.adaptation.matrices import dense_parameter
from superweights.address import Address
from superweights.axes import Int
from superweights.editing import Edit, edited, weight_value
from superweights.record import Score
from superweights.scoring import loss_change, loss_per_window
from superweights.subject import layout_of

# The model under an adaptation, entered for each measurement.
Adapted = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Moved:
    """A weight before and after an adaptation, and what the model loses without it each time.

    `place` counts the weights of its matrix that are larger in magnitude (0: it is the largest). `typical` is the root
    mean square of all changes of its matrix, in which unit `moved` says how far this one went. `loss_before` and
    `loss_after` are the paired rises in nats per token when it is zeroed in the base and under the adaptation.
    """

    address: Address
    """The weight."""
    before: float
    """Its value in the base."""
    after: float
    """Its value under the adaptation."""
    place_before: int
    """Its `place` in the base."""
    place_after: int
    """Its `place` under the adaptation."""
    typical: float
    loss_before: Score
    loss_after: Score

    @property
    def moved(self) -> float:
        """Its change over the typical change of its matrix; 0 where nothing of the matrix changed."""
        return abs(self.after - self.before) / self.typical if self.typical else 0.0


@dataclass(frozen=True)
class Consequences:
    """What an adaptation does to super weights, and to the text they were judged on.

    `loss` is the rise of the loss on plain text, in nats per token, that the adaptation itself costs; `control_before`
    and `control_after` what random weights of the same matrices cost when zeroed. `changed` is the share of each
    matrix's norm that changed, by tensor.
    """

    weights: tuple[Moved, ...]
    loss: Score
    control_before: Score
    control_after: Score
    changed: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        from dataclasses import asdict

        weights = [{**asdict(w), "address": str(w.address), "moved": w.moved} for w in self.weights]
        return {**asdict(self), "weights": weights, "changed": dict(self.changed)}


def consequences(
    model: nn.Module,
    adapted: Adapted,
    addresses: Sequence[Address],
    windows: Int[Tensor, "n length"],
    *,
    seed: int = 0,
) -> Consequences:
    """What `adapted` does to the weights at `addresses`, judged on `windows [n, length]`.

    The control is as many random weights of the same matrices. Works on resident models with dense weights.
    """
    drawn = _random_addresses(model, addresses, seed)
    before = {address: weight_value(model, address) for address in addresses}
    places_before = {address: _place(model, address) for address in addresses}
    matrices = {address: _matrix(model, address).clone() for address in addresses}
    base = loss_per_window(model, windows)
    without = {a: loss_change(base, _losses_without(model, [a], windows)) for a in addresses}
    control_before = loss_change(base, _losses_without(model, drawn, windows))
    with adapted():
        turned = loss_per_window(model, windows)
        moved, changed = [], {}
        for address in addresses:
            difference = _matrix(model, address).float() - matrices[address].float()
            changed[address.tensor] = (difference.norm() / matrices[address].float().norm()).item()
            moved.append(
                Moved(
                    address=address,
                    before=before[address],
                    after=weight_value(model, address),
                    place_before=places_before[address],
                    place_after=_place(model, address),
                    typical=difference.square().mean().sqrt().item(),
                    loss_before=replace(without[address], name=f"without {address}"),
                    loss_after=loss_change(turned, _losses_without(model, [address], windows)),
                )
            )
        control_after = loss_change(turned, _losses_without(model, drawn, windows))
    return Consequences(tuple(moved), loss_change(base, turned), control_before, control_after, changed)


def _losses_without(model: nn.Module, addresses: Sequence[Address], windows: Tensor) -> Tensor:
    with edited(model, [Edit(address, factor=0.0) for address in addresses], verify=False):
        return loss_per_window(model, windows)


def _matrix(model: nn.Module, address: Address) -> Tensor:
    parameter, _ = layout_of(model).parameter_of(address)
    path = parameter.removesuffix(".weight")
    return dense_parameter(model.get_submodule(path), path).detach()


def _place(model: nn.Module, address: Address) -> int:
    """How many weights of its matrix are larger in magnitude."""
    matrix = _matrix(model, address).abs()
    _, index = layout_of(model).parameter_of(address)
    return int((matrix > matrix[index]).sum())


def _random_addresses(model: nn.Module, addresses: Sequence[Address], seed: int) -> list[Address]:
    """One other weight of each address's matrix."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Address] = []
    for address in addresses:
        rows, columns = _matrix(model, address).shape
        while True:
            row, column = (int(torch.randint(n, (), generator=generator)) for n in (rows, columns))
            drawn = layout_of(model).address_of(layout_of(model).parameter_of(address)[0], (row, column))
            if drawn not in addresses and drawn not in found:
                found.append(drawn)
                break
    return found
