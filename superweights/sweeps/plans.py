"""The usual grids of edits. Each is a list of points, and a point is nothing but edits with a place in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from superweights.address import Address
from superweights.editing import Edit, scale, zero
from superweights.errors import SuperweightsError

# The published curve's grid: the scales of arXiv 2411.07191, figures 6 and 8, over its four models, without
# 1.1 and 1.3, which one model alone has.
SCALES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.0, 1.2, 1.5, 1.8, 2.0, 3.0)
# How many other weights the controls remove; 7,000 is the paper's (Table 1).
COUNTS = (1, 10, 100, 1000, 7000)


@dataclass(frozen=True)
class Point:
    """One point of a grid: the edits, and where it stands, in the curve called `series` at `x`.

    `grid` is base, scale, each, pairs, all or controls; `x` a factor or a number of weights, None where the
    point is no part of a curve.
    """

    grid: str
    series: str
    x: float | None
    edits: tuple[Edit, ...]


BASE = Point("base", "as it is", None, ())


def plan_scale(addresses: Sequence[Address], factors: Sequence[float] = SCALES) -> list[Point]:
    """The scaling curve of each weight, and of all of them together where there are several."""
    _refuse_none(addresses)
    curves: list[tuple[str, tuple[Address, ...]]] = [(str(address), (address,)) for address in addresses]
    if len(addresses) > 1:
        curves.append((f"all {len(addresses)}", tuple(addresses)))
    return [Point("scale", name, factor, scale(held, factor)) for name, held in curves for factor in factors]


def even_steps(count: int) -> tuple[float, ...]:
    """`count` factors from 0 to 3, evenly spaced."""
    if count < 2:
        raise SuperweightsError(f"A curve of {count} points is no curve.", hint="use --steps 2 or more.")
    return tuple(round(3 * i / (count - 1), 9) for i in range(count))


def plan_each(addresses: Sequence[Address]) -> list[Point]:
    """Every weight removed alone."""
    _refuse_none(addresses)
    return [Point("each", f"without {address}", None, zero(address)) for address in addresses]


def plan_pairs(addresses: Sequence[Address]) -> list[Point]:
    """Every weight removed alone, and every two of them together: what the pair costs beyond the sum."""
    pairs = combinations(addresses, 2)
    together = [
        Point("pairs", f"without {one} and {other}", None, zero((one, other))) for one, other in pairs
    ]
    return [*plan_each(addresses), *together]


def plan_all(addresses: Sequence[Address]) -> list[Point]:
    """Every weight removed alone, and all of them together."""
    if len(addresses) < 2:
        return plan_each(addresses)
    return [*plan_each(addresses), Point("all", f"without all {len(addresses)}", None, zero(addresses))]


def _refuse_none(addresses: Sequence[Address]) -> None:
    if not addresses:
        raise SuperweightsError(
            "There is no weight to sweep over.",
            hint="give --weights, or --from a record of superweights find.",
        )
