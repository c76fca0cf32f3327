"""What a format is: which weights a checkpoint has in it, and how one of them is decoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError

NEWER = "the file may be damaged, or of a newer version of the format than is known here."


@dataclass(frozen=True, eq=False)
class Decoded:
    """A weight as its format's own decoder makes it, in the shape and dtype that come out of it.

    `step` is the distance of two neighbouring codes at each weight, in the weight's shape, where the grid has one.
    """

    weight: Tensor
    step: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Format:
    """A quantized checkpoint's format. `parts` are the stored tensors that each decoded weight is made of.

    What `parts` does not name is stored plainly. `decode` takes a name of `parts`.
    """

    method: str
    """Its name, in the checkpoint's own word."""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    decode: Callable[[str], Decoded] | None = None


@dataclass(frozen=True)
class Said:
    """What a checkpoint says about its quantization: the method, its settings, and the file that says so."""

    method: str
    settings: Mapping[str, Any]
    where: str
    """The name of that file."""

    def known(self, *lists: str) -> None:
        """Raise for a setting that is in none of these lists of fields.json: it may change what the codes mean."""
        fields = {name for each in lists for name in _fields()[each]}
        for name in self.settings:
            if name not in fields:
                raise self.refused(name, "is not known")

    def inert(self, *fields: str) -> None:
        """Raise for one of `fields` that is set: with it the stored weights are not those that the model uses."""
        for name in fields:
            if self.settings.get(name):
                raise self.refused(name, "changes weights in a way that cannot be undone")

    def whole(self, name: str, *others: str) -> int:
        """The whole number of the field called `name`, or one of its `others`. Raises where there is none."""
        found = next((each for each in (name, *others) if each in self.settings), None)
        if found is None:
            raise SuperweightsError(
                f"{self.where} does not say {name}, without which {self.method} cannot be decoded.",
                hint=NEWER,
            )
        value = self.settings[found]
        if type(value) is not int:
            raise self.refused(found, "is no whole number")
        return value

    def refused(self, name: str, why: str) -> SuperweightsError:
        """An error that names the field, its value and the file."""
        return SuperweightsError(
            f"{self.where}: the field {name!r} = {_short(self.settings.get(name))} of {self.method} {why} here.",
            hint="a newer superweights may know it; nothing is guessed.",
        )


@cache
def _fields() -> dict[str, list[str]]:
    """The fields that each format's configuration may have, by what its writers write."""
    return json.loads(Path(__file__).with_name("fields.json").read_text(encoding="utf-8"))


def modules_with(checkpoint: Checkpoint, marker: str, others: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Each module that has the tensor `marker`, as `MODULE.weight`, with the names of all of its parts."""
    found = {}
    for name in checkpoint.tensors:
        module, _, leaf = name.rpartition(".")
        if leaf == marker:
            parts = (f"{module}.{part}" for part in others)
            found[f"{module}.weight"] = (name, *(part for part in parts if part in checkpoint.tensors))
    return found


def stored(checkpoint: Checkpoint, module: str, part: str, method: str) -> Tensor:
    """The part of a module. Raises where the checkpoint lacks it."""
    name = f"{module}.{part}"
    if name not in checkpoint.tensors:
        raise SuperweightsError(
            f"{checkpoint.name} has no tensor {name!r}, which {method} needs.", hint=NEWER
        )
    return checkpoint.read_stored(name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
