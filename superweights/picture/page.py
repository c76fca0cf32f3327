"""Panels under each other on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 860


@dataclass(frozen=True)
class Panel:
    """One drawing: its SVG elements, in a frame of the page's width that starts at 0, and its height."""

    body: str
    """The SVG elements."""
    height: float


def svg(panels: Sequence[Panel], width: float = WIDTH) -> str:
    """A standalone SVG file of `panels`, one under the other, `width` pixels wide: as they were drawn."""
    parts, top = [], 10.0
    for panel in panels:
        parts.append(f'<g transform="translate(0 {top:g})">{panel.body}</g>')
        top += panel.height + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {top:g}" width="{width:g}" height="{top:g}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )
