"""Where the checkpoint's scalars went: from a stored tensor's index to the model's parameter, and back.

Most tensors keep their index and at most change their name. Fused experts and split projections move; the
moves are transformers' own and may change, so they are not imitated: the element is found again by its
surroundings, the whole row or column that it stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from superweights.address import Address
from superweights.errors import SuperweightsError
from superweights.stream.skeleton import Skeleton


class ConvertedNames:
    """The layout of a model that transformers' loader made from a checkpoint. Implements `address.Layout`.

    `targets[tensor]` is the parameter that each stored tensor goes into (the first, where there are several).
    """

    def __init__(self, skeleton: Skeleton):
        self._skeleton = skeleton
        self.targets: Mapping[str, str] = skeleton.targets
        self._sources: dict[str, list[str]] = {}
        for name, target in skeleton.targets.items():
            self._sources.setdefault(target, []).append(name)
        self._twins = {name: group for group in skeleton.shared for name in group}
        self.parameter_of = cache(self._parameter_of)
        self.address_of = cache(self._address_of)

    def _parameter_of(self, address: Address) -> tuple[str, tuple[int, ...]]:
        info = self._skeleton.checkpoint.tensors.get(address.tensor)
        target = self._skeleton.targets.get(address.tensor)
        if info is None or target is None:
            return address.tensor, address.index  # the caller says that it does not exist
        address.check_shape(info.shape)
        if target not in self._skeleton.converters:
            return target, address.index
        stored = self._skeleton.checkpoint.read(address.tensor)
        for parameter, made in self._skeleton.convert(target).items():
            index = _find_again(stored, address.index, made.to(stored.dtype))
            if index is not None:
                return parameter, index
        raise _lost(str(address))

    def _address_of(self, parameter: str, index: tuple[int, ...]) -> Address:
        names = [n for twin in self._twins.get(parameter, [parameter]) for n in self._sources.get(twin, [])]
        first = self._first_target(parameter)
        if names and first not in self._skeleton.converters:
            return Address(names[0], index)
        made = self._skeleton.convert(first)[parameter]
        for name in _likeliest_first(self._sources[first], index):
            stored = self._skeleton.checkpoint.read(name)
            found = _find_again(made, index, stored.to(made.dtype))
            self._skeleton.checkpoint.release([name])
            if found is not None:
                return Address(name, found)
        raise _lost(f"{parameter}[{', '.join(map(str, index))}]")

    def _first_target(self, parameter: str) -> str:
        """The parameter under which transformers files the converter that makes `parameter`."""
        return self._skeleton.first_target.get(parameter, parameter)


def _find_again(source: Tensor, index: tuple[int, ...], other: Tensor) -> tuple[int, ...] | None:
    """Where `source[index]` stands in `other`: the place whose row or column is the same, or None."""
    for axis in range(-1, -min(source.dim(), 2) - 1, -1):
        line = _line(source, index, axis)
        at = index[axis]
        for other_axis in range(-1, -min(other.dim(), 2) - 1, -1):
            lines = other.movedim(other_axis, -1)
            if lines.shape[-1] != line.shape[0]:
                continue
            hits = (lines[..., at] == line[at]).nonzero()
            for hit in map(tuple, hits.tolist()):
                if torch.equal(lines[hit], line):
                    place = list(hit)
                    place.insert(len(place) + 1 + other_axis, at)
                    return tuple(place)
    return None


def _line(tensor: Tensor, index: tuple[int, ...], axis: int) -> Tensor:
    """The line of `tensor` through `index` along `axis`."""
    place: list = list(index)
    place[axis] = slice(None)
    return tensor[tuple(place)]


def _likeliest_first(names: list[str], index: tuple[int, ...]) -> list[str]:
    """The names, those numbered like the first index (an expert's) in front."""
    wanted = str(index[0])
    return sorted(names, key=lambda name: wanted not in name.split("."))


def _lost(what: str) -> SuperweightsError:
    return SuperweightsError(
        f"{what} cannot be told apart in the form that transformers loads it.",
        hint="its row and column occur nowhere or are rewritten on loading; edit another form of the checkpoint.",
    )
