"""The index of published and measured super weights: load it, look a checkpoint up in it, verify an entry.

Facts live in `known.jsonl`, one coordinate a line; what nobody has published is null there and None here.
A checkpoint is told by its numbers first (the tensor's name and shape, and the value at the coordinate) and
by its name second: names change (local folders, lower case, fine-tunes, merges), numbers hardly do.

Nothing here needs torch: a name can be looked up on any machine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.index.entry import (
    Architecture,
    Effect,
    Evidence,
    Fingerprint,
    KnownWeight,
    index,
    load_known,
    names_known,
    read_index,
)
from superweights.index.names import names_in, names_of, names_of_checkpoint
from superweights.index.place import ROUNDING, CheckpointLike, KnownPlace, by_block, find_place

__all__ = [
    "Architecture",
    "CheckpointLike",
    "Effect",
    "Evidence",
    "Fingerprint",
    "KnownWeight",
    "Match",
    "Verification",
    "fingerprint_of",
    "load_known",
    "look_up",
    "names_known",
    "read_index",
    "verify",
]

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Match:
    """A known weight that a checkpoint or a name leads to."""

    known: KnownWeight
    """What the index says."""
    how: str
    """How it was recognised: `fingerprint`, `fingerprint (drifted: value moved by 3 %)`, `the model's other
    coordinates`, `name`, or `name, but the value differs`; `listed` where nobody asked about a model."""
    agreeing: int = 0
    """How many of `compared` matched by value: the more, the surer."""
    compared: int = 0
    """How many coordinates of the same model were compared."""
    address: Address | None = None
    """Where it lies in this checkpoint."""
    value: float | None = None
    """What this checkpoint holds there."""
    agrees: bool | None = None
    """Whether the number there is the known one, a little drift allowed; None where no value is known."""
    check: str | None = None
    """What holding it against the checkpoint has found, in a sentence; None where that was not asked for."""

    def to_json(self) -> dict[str, Any]:
        """The entry with what was found here beside it."""
        here = None if self.address is None else str(self.address)
        found = {"how": self.how, "agreeing": self.agreeing, "compared": self.compared}
        return (
            self.known.to_json()
            | found
            | {"value_here": self.value, "address_here": here, "check": self.check}
        )


@dataclass(frozen=True)
class Verification:
    """One entry held against one checkpoint: is the place there, is the number, is it an outlier."""

    known: KnownWeight
    """The entry."""
    tensor_exists: bool
    """Whether the checkpoint has its tensor."""
    index_inside: bool
    """Whether the index lies in it, and its shape is the known one."""
    value: float | None
    """What stands there."""
    value_matches: bool | None
    """Whether that is the known value, but for rounding; None where no value is known."""
    value_rank: int | None
    """How many magnitudes in the tensor are larger."""
    sentence: str
    """All this in words."""


def look_up(asked: str | Path | CheckpointLike, further: Sequence[KnownWeight] = ()) -> list[Match]:
    """The known weights of a checkpoint or a name, the surest first; empty where nothing matches.

    `further` entries (`read_index`) are asked beside those of the index.

    A plain string or path is looked up by name alone: case, organisation, folder, revision and quantization
    suffix do not matter. An open checkpoint is first compared number by number with every entry whose tensor
    it has; its own name, folder name and `_name_or_path` are tried after that.

    >>> [str(match.known) for match in look_up("./models/LLAMA-7b")]
    ['model.layers.2.mlp.down_proj.weight[3968, 7003]']
    """
    if isinstance(asked, str | Path):
        names = names_in(str(asked))
        return [Match(known, "name") for known in (*index(), *further) if names & names_of(known)]
    entries, blocks = (*index(), *further), by_block(asked)
    found = {known: find_place(known, asked, blocks) for known in entries}
    places = {known: place for known, place in found.items() if place is not None}
    names = names_of_checkpoint(asked)
    models: dict[str, list[KnownWeight]] = {}
    for known in entries:
        models.setdefault(known.model, []).append(known)
    matches = [match for each in models.values() for match in _of_model(each, places, names)]
    exact = Counter(match.known.model for match in matches if match.how == "fingerprint")
    matches.sort(key=lambda match: (-exact[match.known.model], -match.agreeing))
    return _each_place_once(matches)


def _each_place_once(matches: list[Match]) -> list[Match]:
    """The matches without those at a number that a surer model has already explained: its relatives."""
    taken: dict[Address, str] = {}
    for match in matches:
        if match.address is not None:
            taken.setdefault(match.address, match.known.model)
    return [m for m in matches if m.address is None or taken[m.address] == m.known.model]


def verify(known: KnownWeight, checkpoint: CheckpointLike) -> Verification:
    """`known` held against `checkpoint`: existence, value and rank of magnitude, with a plain sentence.

    Reads the whole tensor once, in chunks of rows.
    """
    place = find_place(known, checkpoint)
    if place is None:
        return _absent(known, checkpoint)
    if place.index is None:
        what = f"row {known.out_channel}" if known.out_channel is not None else f"expert {known.expert}"
        text = f"{what} of {place.tensor} is there; the index knows no column for it."
        return Verification(known, True, True, None, None, None, text)
    mark = fingerprint_of(checkpoint, Address(place.tensor, place.index))
    matches = None if place.moved is None else place.moved <= ROUNDING
    if known.value is None:
        judged = "no value was published to compare it with"
    else:
        judged = f"as known ({known.value:.5g})" if matches else f"not the known {known.value:.5g}"
    rank = "the largest" if mark.value_rank == 0 else f"number {(mark.value_rank or 0) + 1} by magnitude"
    at = Address(place.tensor, place.index)
    text = f"{at} is {mark.value:.5g}, {judged}; it is {rank} of its tensor."
    return Verification(known, True, True, mark.value, matches, mark.value_rank, text)


def _absent(known: KnownWeight, checkpoint: CheckpointLike) -> Verification:
    info = checkpoint.tensors.get(known.tensor)
    text = f"there is no tensor {known.tensor} here."
    if info is not None:
        text = f"{known.tensor} has shape {list(info.shape)} here, so it is not the tensor of {known}."
    return Verification(known, info is not None, False, None, None, None, text)


def fingerprint_of(checkpoint: CheckpointLike, address: Address) -> Fingerprint:
    """The fingerprint of one number: reads its whole tensor once, in chunks of rows.

    Raises `SuperweightsError` when the index lies outside the tensor.
    """
    info = checkpoint.tensors[address.tensor]
    shape = tuple(info.shape)
    address.check_shape(shape)
    value = float(checkpoint.element(address.tensor, address.index))
    larger, row, column = 0, 0.0, 0.0
    step = max(1, _CHUNK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        rows = checkpoint.read_rows(address.tensor, start, min(start + step, shape[0])).float()
        larger += int((rows.abs() > abs(value)).sum())
        along, across = _cross(rows, start, address.index)
        row, column = row + along, column + across
    norm = math.sqrt(column) if len(shape) > 1 else None
    return Fingerprint(
        address.tensor, shape, address.index, value, larger, math.sqrt(row), norm, str(info.dtype)
    )


def _cross(rows: Any, start: int, at: tuple[int, ...]) -> tuple[float, float]:
    """The squares, within `rows` (the tensor's rows from `start`), of the row and column that cross at `at`."""
    first, *rest = at
    if not rest:
        return float(rows.square().sum()), 0.0
    inside = 0 <= first - start < rows.shape[0]
    if len(rest) > 1:  # a stack of matrices, as fused experts: only one of them counts
        return _cross(rows[first - start], 0, tuple(rest)) if inside else (0.0, 0.0)
    along = float(rows[first - start].square().sum()) if inside else 0.0
    return along, float(rows[:, rest[0]].square().sum())


def _of_model(
    entries: Sequence[KnownWeight], places: dict[KnownWeight, KnownPlace], names: set[str]
) -> Iterator[Match]:
    """The matches of one model: its coordinates are judged together, since they stand or fall together."""
    valued = [places[known] for known in entries if known in places and places[known].moved is not None]
    agreeing, named = sum(place.agrees for place in valued), bool(names & names_of(entries[0]))
    if not agreeing and not named:
        return
    for known in entries:
        place = places.get(known)
        how = _how(place, agreeing > 0, named)
        if how is not None:
            at = None if place is None or place.index is None else Address(place.tensor, place.index)
            value = place.value if place else None
            agrees = None if place is None or place.moved is None else place.agrees
            yield Match(known, how, agreeing, len(valued), at, value, agrees)


def _how(place: KnownPlace | None, model_agrees: bool, named: bool) -> str | None:
    """The sentence for one coordinate."""
    if place is not None and place.agrees and place.moved is not None:
        if place.moved <= ROUNDING:
            return "fingerprint"
        return f"fingerprint (drifted: value moved by {100 * place.moved:.2g} %)"
    if named:
        differs = place is not None and place.moved is not None and not place.moved <= ROUNDING
        return "name, but the value differs" if differs else "name"
    return (
        "the model's other coordinates" if model_agrees and (place is None or place.moved is None) else None
    )
