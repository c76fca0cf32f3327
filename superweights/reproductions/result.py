"""What an experiment gave: rows under columns, the paper's figures beside them, and what to think of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from superweights.record import Record, Score, versions
from superweights.reproductions.published import Published


@dataclass(frozen=True)
class Column:
    """One column: its key in every row, its heading, and whose it is (`label`, `ours`, `published`)."""

    key: str
    heading: str
    whose: Literal["label", "ours", "published"] = "ours"


@dataclass(frozen=True)
class Plot:
    """How the rows are drawn: `x` and each of `lines` are keys of the rows."""

    x: str
    lines: tuple[str, ...]
    y: str
    logarithmic: bool = False


@dataclass(frozen=True)
class Reproduction:
    """One published experiment, run on one model.

    `rows` hold plain values and `Score`s under the keys of `columns`; None is unknown or not measured.
    `sentences` say what was found, `notes` what the reader should know. `weights` are the super weights
    that it was about and `chosen` where they are from; `conditions` what was measured on.
    """

    experiment: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, Any], ...]
    published: Published
    weights: tuple[dict[str, Any], ...] = ()
    chosen: str = ""
    scores: tuple[Score, ...] = ()
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)
    plot: Plot | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of everything."""
        return asdict(self)

    def record(self) -> Record:
        """The record of it: enough to run it again."""
        inputs = {key: self.conditions.get(key) for key in ("name", "revision", "fingerprint", "text_sha256")}
        return Record(
            command=f"reproduce {self.experiment}",
            inputs=inputs,
            versions=versions(),
            seed=self.conditions.get("seed"),
            scores=self.scores,
            findings=self.to_json(),
        )
