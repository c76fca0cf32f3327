"""What the index knows of one weight, and the file it is read from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.artefacts.reading import parse_lines, read_text
from superweights.artefacts.shape import shaped

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Architecture:
    """The sizes that fix the shape of a down-projection, `[hidden_size, intermediate_size]`."""

    hidden_size: int | None = None
    intermediate_size: int | None = None
    layers: int | None = None
    """How many blocks there are."""


@dataclass(frozen=True)
class Effect:
    """What an intervention did: `what` was changed and measured, by how much, in which unit."""

    what: str
    value: float
    """By how much."""
    unit: str
    standard_error: float | None = None
    """Of the value; None where none is told."""


@dataclass(frozen=True)
class Evidence:
    """Spikes at the product's input and output, `dominance = spike_in * value / spike_out`, and effects."""

    spike_in: float | None = None
    spike_out: float | None = None
    dominance: float | None = None
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True)
class Fingerprint:
    """What survives a new name, another dtype and light training: the number, its rank, its neighbours' size.

    `value_rank` counts the weights of the tensor with a larger magnitude (0: it is the largest).
    `row_norm` and `column_norm` are Euclidean norms of the vectors that cross at the number; a vector has
    no column.
    """

    tensor: str
    shape: tuple[int, ...]
    """The tensor's, as stored."""
    index: tuple[int, ...]
    """Where the number stands."""
    value: float
    """The number."""
    value_rank: int | None = None
    row_norm: float | None = None
    column_norm: float | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class KnownWeight:
    """One coordinate of the index, with where it is from and what is disputed about it.

    `index` follows the file (`basis`: "as stored"), so for these models it is `[out_channel, in_neuron]`;
    an entry about a whole row has no `in_neuron`, one about a whole `expert` (its number in the layer) neither, and
    a gain or bias has one number. `verdict` is critical, joint (together with the others of its `group`), partial,
    benign, none, false_pair (input and output spikes that do not belong together) or unknown. `conditions` say under
    which it holds (how windows begin). Unknown values are None.
    """

    model: str
    """The name on the hub."""
    tensor: str
    """Its name in the checkpoint."""
    index: tuple[int | None, ...]
    out_channel: int | None
    verdict: str
    sources: tuple[str, ...]
    """Where it is from: papers, code, measurements of ours."""
    aliases: tuple[str, ...] = ()
    """Other names of the same model."""
    revision: str | None = None
    """The commit that it was measured on."""
    architecture: Architecture = Architecture()
    """The sizes by which a model is recognised."""
    layer: int | None = None
    in_neuron: int | None = None
    value: float | None = None
    """The weight itself."""
    evidence: Evidence = Evidence()
    """What was measured about it."""
    basis: str = "as stored"
    conflicts: tuple[str, ...] = ()
    """What sources disagree about."""
    notes: tuple[str, ...] = ()
    """What the reader should know."""
    fingerprint: Fingerprint | None = None
    """By what it is recognised under another name."""
    schema_version: int = SCHEMA_VERSION
    """The version of this layout."""
    group: str | None = None
    expert: int | None = None
    conditions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.tensor}[{', '.join('?' if i is None else str(i) for i in self.index)}]"

    @property
    def address(self) -> Address | None:
        """The coordinate, or None for an entry that names a row only."""
        whole = tuple(i for i in self.index if i is not None)
        return Address(self.tensor, whole) if len(whole) == len(self.index) else None

    @property
    def shape(self) -> tuple[int, int] | None:
        """The shape its tensor should have, where the sizes are known."""
        sizes = self.architecture.hidden_size, self.architecture.intermediate_size
        return None if None in sizes else sizes  # type: ignore[return-value]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KnownWeight:
        """The entry that `to_json` wrote."""
        evidence = dict(data["evidence"])
        evidence["effects"] = tuple(Effect(**effect) for effect in evidence["effects"])
        mark = data["fingerprint"]
        if mark is not None:
            mark = Fingerprint(**{**mark, "shape": tuple(mark["shape"]), "index": tuple(mark["index"])})
        lists = {key: tuple(data[key]) for key in ("index", "sources", "aliases", "conflicts", "notes")}
        lists["conditions"] = tuple(data.get("conditions", ()))
        nested = {"architecture": Architecture(**data["architecture"]), "evidence": Evidence(**evidence)}
        return cls(**{**data, **lists, **nested, "fingerprint": mark})


@lru_cache(maxsize=1)
def index() -> tuple[KnownWeight, ...]:
    text = resources.files("superweights").joinpath("known.jsonl").read_text(encoding="utf-8")
    return tuple(KnownWeight.from_json(json.loads(line)) for line in text.splitlines() if line.strip())


def read_index(path: Path | str) -> tuple[KnownWeight, ...]:
    """The entries of a file of lines like `known.jsonl`, such as a census writes.

    Raises `SuperweightsError` naming the line and the field for anything else; a file without lines has no entries.
    """
    hint = "give a file that superweights census wrote, or lines like those of known.jsonl."
    text = read_text(Path(path), hint=hint)
    lines = parse_lines(text, str(path), hint=hint) if text.strip() else []
    return tuple(shaped(KnownWeight, line, f"{path}, line {n}", hint) for n, line in enumerate(lines, 1))


def load_known() -> list[KnownWeight]:
    """Every entry of the index, in the order of the file: model by model."""
    return list(index())


def names_known() -> list[str]:
    """The hub names of the models in the index."""
    return list(dict.fromkeys(known.model for known in index()))
