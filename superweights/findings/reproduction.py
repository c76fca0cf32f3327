"""What a published experiment gave on one model, beside the published figures: the findings of `reproduce`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from superweights.record import Score


@dataclass(frozen=True)
class Column:
    """One column of the rows."""

    key: str
    """Its key in every row."""
    heading: str
    """What stands above it."""
    whose: Literal["label", "ours", "published"] = "ours"
    """Whether it names the row, was measured here, or was printed in the paper."""


@dataclass(frozen=True)
class Plot:
    """How the rows are drawn."""

    x: str
    """The key of what stands from left to right."""
    lines: tuple[str, ...]
    """The keys of the lines."""
    y: str
    """What the axis of the values says."""
    logarithmic: bool = False
    """Whether that axis is logarithmic."""


@dataclass(frozen=True)
class Published:
    """The paper's figures for one experiment, to stand beside ours."""

    source: str
    """Where they are printed."""
    protocol: str
    """How they were measured."""
    model: str
    """The paper's name of the model that they were measured on."""
    same_model: bool
    """Whether that is the model under experiment; else they are there for orientation only."""
    figures: Any = field(repr=False)
    """Themselves, as `published.json` has them."""
    errors: tuple[str, ...] = ()
    """What is known to be wrong with them."""


@dataclass(frozen=True)
class Reproduction:
    """One published experiment, run on one model."""

    experiment: str
    """Its word: table1, figure3, figure4, figure5, figure6."""
    title: str
    """What it shows."""
    columns: tuple[Column, ...]
    """The columns of the rows."""
    rows: tuple[dict[str, Any], ...]
    """Plain values and `Score`s under the keys of `columns`; None is unknown or not measured."""
    published: Published
    """What the paper printed."""
    weights: tuple[dict[str, Any], ...] = ()
    """The super weights that it was about."""
    chosen: str = ""
    """Where they are from."""
    scores: tuple[Score, ...] = ()
    """The few numbers that sum it up."""
    sentences: tuple[str, ...] = ()
    """What was found."""
    notes: tuple[str, ...] = ()
    """What the reader should know."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """What it was measured on."""
    plot: Plot | None = None
    """How it is drawn; None: it is a table."""
