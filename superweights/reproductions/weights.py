"""Which super weights an experiment is about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.discovery import find
from superweights.errors import SuperweightsError
from superweights.index.choice import TO_REPRODUCE, Choice, choose_weights
from superweights.progress import Progress
from superweights.record import Record, SuperWeight
from superweights.subject import layout_of
from superweights.watch import Product, watching


def weights_to_reproduce(
    checkpoint: Checkpoint,
    *,
    given: Sequence[Address] = (),
    record: Record | Path | None = None,
    search: bool = True,
    progress: Progress | None = None,
    **loading: Any,
) -> Choice:
    """The super weights of `checkpoint` that an experiment is about: the paper's own where it has some.

    Where none is given or known the model is searched (not with `search` False: then the choice may be empty);
    `loading` is for that. Raises `SuperweightsError` where nothing is found, or the record is of another model.
    """

    def searched() -> Sequence[SuperWeight]:
        return find(checkpoint, progress=progress, **loading).super_weights

    chosen = choose_weights(checkpoint, given, record, TO_REPRODUCE, searched if search else None)
    if search and not chosen.addresses:
        raise SuperweightsError(
            "The record holds no super weight."
            if record is not None
            else f"No super weight was found in {checkpoint.name}.",
            hint="that is a result: see superweights find. To try a weight, name it with --weight.",
        )
    return chosen


def see_weights(model: nn.Module, ids: Tensor, checkpoint: Checkpoint, addresses: Sequence[Address]):
    """Each weight as a `SuperWeight`, with the products it made on `ids [rows, tokens]`: `tuple[SuperWeight]`.

    Spikes are at the token where the weight's own product is largest; None for a weight in no linear product
    that ran (a gain, an expert that no token reached).
    """
    places = [layout_of(model).parameter_of(address) for address in addresses]
    seen: dict[int, SuperWeight] = {}

    def see(product: Product) -> None:
        for number, (parameter, index) in enumerate(places):
            if product.kind == "weight" and product.parameter == parameter:
                found = _look(product, addresses[number], parameter, index)
                if found is not None:
                    seen[number] = found

    with torch.no_grad(), watching(model, see):
        model(ids)
    plain = [SuperWeight(a, checkpoint.element(a.tensor, a.index), parameter=p[0])
             for a, p in zip(addresses, places, strict=True)]  # fmt: skip
    return tuple(seen.get(number, weight) for number, weight in enumerate(plain))


def _look(product: Product, address: Address, parameter: str, index: tuple[int, ...]) -> SuperWeight | None:
    """The weight in this product, told from its transposed place by the product itself."""
    rows, columns = product.operand.shape
    for j, k in ((index[-2], index[-1]), (index[-1], index[-2])):
        if j < rows and k < columns and product.index(j, k) == index:
            at = int((product.x[:, k].float() * product.operand[j, k].float()).abs().argmax())
            x, y, w = float(product.x[at, k]), float(product.y[at, j]), float(product.operand[j, k])
            share = x * w / y if y else None
            return SuperWeight(
                address, w, x, y, share, parameter=parameter, out_channel=j, in_neuron=k, position=at
            )
    return None
