"""Layers as a person writes them."""

from __future__ import annotations

from collections.abc import Sequence

from superweights.errors import SuperweightsError


def layers_of(written: str | Sequence[int] | None) -> tuple[int, ...] | None:
    """The layers written as `0,3` or `20-29`; numbers are taken as they are, None stays None (all of them).

    Raises `SuperweightsError` for anything else.
    """
    if written is None or not isinstance(written, str):
        return None if written is None else tuple(written)
    found: list[int] = []
    try:
        for part in written.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        found = []
    if not found:
        raise SuperweightsError(f"--layers {written} is no list of layers.", hint="write 25,26 or 20-29.")
    return tuple(found)
