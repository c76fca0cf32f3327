"""Controls: weights that should not matter, taken out for comparison with one that might.

A draw of eight weights is made anew for each window and rides as that window's version of one branch
(`Branch.by_row`), so that thirty-two windows see two hundred and fifty-six random weights of the tensor for the
price of one branch. The verdict rests on paired differences, window by window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from superweights.address import Address
from superweights.branch import Branch
from superweights.checkpoint import Checkpoint
from superweights.discovery.trials import Trial
from superweights.editing import Edit
from superweights.record import LARGEST, RANDOM_COLUMN, RANDOM_ROW, RANDOM_TENSOR, Control


@dataclass(eq=False)
class Comparison:
    """One kind of control, and the model without it."""

    kind: str
    count: int
    trial: Trial

    def control(self, of: Trial) -> Control | None:
        """The control as a record shows it, beside what the weight costs (`of`); None before it is measured."""
        if not self.trial.seen:
            return None
        beyond = of.beyond(self.trial, "how much more the weight costs")
        return Control(self.kind, self.trial.score(f"loss rise without {self.count}"), beyond)


class Comparisons:
    """The controls of a search: each is made once, and shared by all that it is a control of."""

    def __init__(self, checkpoint: Checkpoint, count: int, seed: int):
        self._checkpoint, self._count, self._seed = checkpoint, count, seed
        self._made: dict[tuple, Comparison] = {}
        self.avoid: set[Address] = set()

    @property
    def trials(self) -> list[Trial]:
        return [comparison.trial for comparison in self._made.values()]

    @property
    def drawn(self) -> int:
        """How many random weights have been taken out so far, counted once for each window."""
        random = [c for c in self._made.values() if c.kind != LARGEST]
        return sum(c.count * len(c.trial.rises) for c in random)

    def of_weight(
        self, address: Address, place: tuple[int, int | None], *, all_kinds: bool = True
    ) -> list[Comparison]:
        """The controls of one weight with `place` (output channel, input neuron): its tensor and column; with
        `all_kinds` also its row and the largest other of the tensor."""
        found = [self._random(address, RANDOM_TENSOR, self._fixed(address), self._count)]
        for kind, axis in _axes(address.index, place).items():
            if kind == RANDOM_ROW and not all_kinds:
                continue
            fixed = {n: i for n, i in enumerate(address.index) if n != len(address.index) + axis}
            found.append(self._random(address, kind, fixed, self._count))
        largest = [self._largest(address)] if all_kinds else []
        return [*(each for each in found if each), *largest]

    def of_group(self, address: Address, place: tuple[int, int | None], members: int) -> list[Comparison]:
        """The control of a group in one column, that of `address`: as many other weights of it."""
        axis = _axes(address.index, place).get(RANDOM_COLUMN)
        kind = RANDOM_TENSOR if axis is None else RANDOM_COLUMN
        kept = self._fixed(address)
        if axis is not None:
            kept = {n: i for n, i in enumerate(address.index) if n != len(address.index) + axis}
        found = self._random(address, kind, kept, members)
        return [found] if found else []

    def _fixed(self, address: Address) -> dict[int, int]:
        """An expert's weight is compared with others of its own expert: the first of three axes stays."""
        return {0: address.index[0]} if len(address.index) > 2 else {}

    def _random(self, address: Address, kind: str, fixed: dict[int, int], count: int) -> Comparison | None:
        """`count` random weights that share the `fixed` part of the index; None where there are hardly any."""
        shape = tuple(self._checkpoint.tensors[address.tensor].shape)
        free = 1
        for axis, size in enumerate(shape):
            free *= 1 if axis in fixed else size
        if free < 2 * count:
            return None
        key = kind, address.tensor, tuple(fixed.items()), count

        def branch(windows: Sequence[int]) -> Branch:
            rows = [self._draw(address.tensor, shape, fixed, count, key, window) for window in windows]
            return Branch(by_row=tuple(rows))

        return self._made.setdefault(key, Comparison(kind, count, Trial(branch)))

    def _draw(
        self, tensor: str, shape: tuple[int, ...], fixed: dict[int, int], count: int, key: tuple, window: int
    ) -> tuple[Edit, ...]:
        """The weights taken out in one window: the same for the same seed, tensor and window."""
        picker = torch.Generator().manual_seed(_seed_of(self._seed, *map(str, key), str(window)))
        drawn: dict[Address, None] = {}
        for _ in range(20 * count):
            index = tuple(
                fixed[axis] if axis in fixed else int(torch.randint(size, (), generator=picker))
                for axis, size in enumerate(shape)
            )
            if Address(tensor, index) not in self.avoid:
                drawn[Address(tensor, index)] = None
            if len(drawn) == count:
                break
        return tuple(Edit(address, factor=0.0) for address in drawn)

    def _largest(self, address: Address) -> Comparison:
        """The one largest weight of the tensor that is not under suspicion itself."""
        key = LARGEST, address.tensor
        if key not in self._made:
            found = largest_other(self._checkpoint, address.tensor, self.avoid)
            self._made[key] = Comparison(LARGEST, 1, Trial.without([found] if found else []))
        return self._made[key]


def largest_other(checkpoint: Checkpoint, name: str, avoid: Collection[Address]) -> Address | None:
    """The largest weight of a tensor that is none of `avoid`; None where there is no other."""
    tensor = checkpoint.read(name)
    here = sum(address.tensor == name for address in avoid)
    order = tensor.abs().flatten().float().topk(min(1 + here, tensor.numel())).indices
    checkpoint.release([name])
    places = (torch.unravel_index(place, tensor.shape) for place in order)
    found = (Address(name, tuple(int(i) for i in place)) for place in places)
    return next((address for address in found if address not in avoid), None)


def _axes(index: tuple[int, ...], place: tuple[int, int | None]) -> dict[str, int]:
    """The stored axes along which a weight's column and row run, where the address shows them."""
    if len(index) < 2 or place[0] == place[1]:
        return {}
    if index[-2:] == place:
        return {RANDOM_COLUMN: -2, RANDOM_ROW: -1}
    return {RANDOM_COLUMN: -1, RANDOM_ROW: -2} if index[-2:] == place[::-1] else {}


def _seed_of(*parts: object) -> int:
    digest = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
