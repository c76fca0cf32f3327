"""Bits to matrices: the cheapest loss for a budget, by the slopes of each matrix's convex hull."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from superweights.errors import SuperweightsError
from superweights.quantization.scheme import Scheme


@dataclass(frozen=True)
class Choice:
    """One scheme for one matrix: all bits that it stores, and the loss that it is expected to cost (KL, nats)."""

    scheme: Scheme
    bits: int
    loss: float


@dataclass(frozen=True)
class Step:
    """A point of the frontier: bits per weight over all matrices, and the expected loss (KL, nats)."""

    bits_per_weight: float
    """Stored bits, scales included."""
    loss: float
    """Summed over the matrices."""


@dataclass(frozen=True)
class Allotment:
    """A choice for each matrix, the bits per weight that they take together, and the frontier that was walked."""

    choices: Mapping[str, Choice]
    """By the tensor's name."""
    bits_per_weight: float
    """Stored bits, scales included."""
    loss: float
    """What they are expected to cost together (KL, nats)."""
    frontier: tuple[Step, ...]
    """From the fewest bits to the most."""


def allot(
    offers: Mapping[str, Sequence[Choice]], sizes: Mapping[str, int], bits_per_weight: float
) -> Allotment:
    """The choices among `offers` with the least summed loss whose bits stay within `bits_per_weight` on average.

    Every matrix begins with its smallest choice; then the upgrade that saves the most loss per bit is taken, as long as
    it fits. On each matrix's lower convex hull this is the optimum for every budget that it passes exactly, and misses
    in between by less than one upgrade (Everett's Lagrange multipliers, 1963). Losses are taken to add up.

    Raises `SuperweightsError` for a budget below the smallest choices.
    """
    total = sum(sizes[name] for name in offers)
    hulls = {name: _hull(choices) for name, choices in offers.items()}
    taken = dict.fromkeys(offers, 0)
    bits = sum(hull[0].bits for hull in hulls.values())
    loss = sum(hull[0].loss for hull in hulls.values())
    budget = bits_per_weight * total
    if bits > budget:
        raise SuperweightsError(
            f"{bits_per_weight:g} bits per weight are too few: the smallest choices take {bits / total:.3g}.",
            hint="give a larger --bits, or smaller candidates.",
        )
    frontier = [Step(bits / total, loss)]
    upgrades = [
        ((low.loss - high.loss) / (high.bits - low.bits), place, name)
        for name, hull in hulls.items()
        for place, (low, high) in enumerate(pairwise(hull))
    ]
    within = True
    for _, place, name in sorted(upgrades, key=lambda each: (-each[0], each[1], each[2])):
        low, high = hulls[name][place], hulls[name][place + 1]
        if taken[name] != place:  # a lower step of this matrix did not fit
            continue
        if bits + high.bits - low.bits > budget:
            within = False  # what follows fills the rest with smaller upgrades, off the frontier
            continue
        taken[name] = place + 1
        bits, loss = bits + high.bits - low.bits, loss + high.loss - low.loss
        if within:
            frontier.append(Step(bits / total, loss))
    return Allotment(
        {name: hulls[name][place] for name, place in taken.items()},
        bits / total,
        loss,
        tuple(frontier + _beyond(hulls, upgrades, total, bits_per_weight)),
    )


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """The lower convex hull: each step up saves less loss per bit than the one before."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda each: (each.bits, each.loss)):
        if hull and choice.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(low: Choice, high: Choice) -> float:
    return (low.loss - high.loss) / max(high.bits - low.bits, 1)


def _beyond(
    hulls: Mapping[str, Sequence[Choice]],
    upgrades: Sequence[tuple[float, int, str]],
    total: int,
    from_bits: float,
) -> list[Step]:
    """The frontier above `from_bits`, to the largest choices."""
    bits = sum(hull[0].bits for hull in hulls.values())
    loss = sum(hull[0].loss for hull in hulls.values())
    steps = []
    for _, place, name in sorted(upgrades, key=lambda each: (-each[0], each[1], each[2])):
        low, high = hulls[name][place], hulls[name][place + 1]
        bits, loss = bits + high.bits - low.bits, loss + high.loss - low.loss
        if bits / total > from_bits:
            steps.append(Step(bits / total, loss))
    return steps
