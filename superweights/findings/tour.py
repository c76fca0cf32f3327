"""What the tour shows, part by part."""

from __future__ import annotations

from dataclasses import dataclass

from superweights.record import Score


@dataclass(frozen=True)
class TourPart:
    """One part of the tour, as a person reads it."""

    title: str
    """What it is about."""
    lines: tuple[str, ...]
    """What is said and drawn."""


@dataclass(frozen=True)
class Tour:
    """A model's super weights in a minute."""

    parts: tuple[TourPart, ...]
    """In the order in which they are told."""
    weights: tuple[str, ...]
    """The super weights that it is about; empty where none is known or found."""
    gravest: str | None
    """The one whose loss costs most."""
    perplexity: Score | None
    """Of the model as it is; None where there is nothing to compare it with."""
    without: Score | None
    """Without the gravest."""
    rounded: Score | None
    """Every matrix in int4, clipped, the super weights with them; None where the model cannot be rounded."""
    protected: Score | None
    """The same with the super weights held out."""
    next_commands: tuple[str, ...]
    """Commands to go on with."""
