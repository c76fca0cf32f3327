"""Which super weights an experiment is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.discovery import find
from superweights.discovery.findings import Findings
from superweights.errors import SuperweightsError
from superweights.index import Match, look_up, verify
from superweights.progress import Progress
from superweights.record import Record, SuperWeight
from superweights.subject import layout_of
from superweights.watch import Product, watching

# How the index says that the authors name a weight themselves, in the paper or in the table of their code.
_AUTHORS = ("arXiv 2411.07191", "mengxiayu/LLMSuperWeight, outliers/model.py")
# A coordinate without a published value is believed where its weight is among the largest thousandth.
_LARGE = 1e-3


@dataclass(frozen=True)
class Chosen:
    """The super weights of one model, where they are from, and the hub names under which it is known."""

    addresses: tuple[Address, ...]
    how: str
    hub_names: tuple[str, ...] = ()


def choose_weights(
    checkpoint: Checkpoint,
    *,
    given: Sequence[Address] = (),
    record: Record | None = None,
    search: bool = True,
    progress: Progress | None = None,
    **loading: Any,
) -> Chosen:
    """The super weights of `checkpoint`: `given`, or those of a `record` that `find` wrote, or known, or found.

    Known ones count where the numbers here agree: the authors' own coordinates, for other models those that
    are critical or partial. Where there are none the model is searched (not with `search` False: then the
    choice may be empty); `loading` is for that.

    Raises `SuperweightsError` where nothing is found, or the record is of another model.
    """
    matches = [match for match in look_up(checkpoint) if _agrees(match, checkpoint)]
    names = tuple(dict.fromkeys(match.known.model for match in matches))
    if given:
        return Chosen(tuple(given), "as given", names)
    if record is not None:
        return Chosen(_of_record(record, checkpoint), f"a record of {record.command}", names)
    authors = [m for m in matches if any(a in source for source in m.known.sources for a in _AUTHORS)]
    proven = [m for m in matches if m.known.verdict in ("critical", "partial")]
    for kind, how in ((authors, "published by the authors"), (proven, "known, critical or partial")):
        addresses = tuple(m.address for m in kind if m.address is not None)
        if addresses:
            return Chosen(addresses, f"{how}; the numbers here agree", names)
    if not search:
        return Chosen((), "not needed", names)
    found = find(checkpoint, progress=progress, **loading).super_weights
    if not found:
        raise SuperweightsError(
            f"No super weight was found in {checkpoint.name}.",
            hint="that is a result: see superweights find. To try a weight, name it with --weight.",
        )
    return Chosen(tuple(weight.address for weight in found), "found by superweights find", names)


def _agrees(match: Match, checkpoint: Checkpoint) -> bool:
    """Whether the number at a known coordinate is the published one; without one, whether it is large."""
    if match.address is None:
        return False
    check = verify(match.known, checkpoint)
    if check.value_matches is not None or check.value_rank is None:
        return bool(check.value_matches)
    return check.value_rank < _LARGE * math.prod(checkpoint.tensors[match.address.tensor].shape)


def _of_record(record: Record, checkpoint: Checkpoint) -> tuple[Address, ...]:
    """The super weights that `superweights find --out` wrote down for this very checkpoint."""
    if "candidates" not in record.findings:
        raise SuperweightsError(
            f"The record is of {record.command!r}, which holds no super weights.",
            hint="give a file written by superweights find --out.",
        )
    if record.inputs.get("fingerprint") != checkpoint.fingerprint():
        raise SuperweightsError(
            f"The record is of {record.inputs.get('name')}, another checkpoint than {checkpoint.name}.",
            hint="run superweights find on this checkpoint.",
        )
    found = Findings.from_json(record.findings).super_weights
    if not found:
        raise SuperweightsError(
            "The record holds no super weight that is critical or partial.", hint="name one with --weight."
        )
    return tuple(weight.address for weight in found)


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
