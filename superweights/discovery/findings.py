"""What a search looks for, and what it found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from superweights.artefacts.shape import shaped
from superweights.discovery.proof import Bars
from superweights.discovery.residual import LayerSpike
from superweights.picture.lines import Series, line_chart
from superweights.picture.page import svg
from superweights.record import Score, SuperWeight, SuperWeights, table_of


@dataclass(frozen=True)
class Search:
    """How to search; the defaults need no thought.

    `prompts`: short texts to look at (None: a few built-in sentences), cut to `prompt_length` tokens, with
    and without BOS where the tokenizer has one. `windows` stretches of `length` tokens of the text confirm
    the effects (0: judge on the prompts alone). `rounds`: how often the proven weights are removed to look
    for others that they mask. `min_ratio`: an output spikes when it is this many times the median channel's
    (the accepted ones of 22 published models lie between 10 and 7,124); `min_dominance`: one product must
    make this share of it. `most` candidates are put to the proof. `controls`: how many weights that should
    not matter are zeroed together for each comparison. Nothing here is an absolute size of activations.
    """

    prompts: tuple[str, ...] | None = None
    prompt_length: int = 12
    windows: int = 8
    length: int = 32
    rounds: int = 1
    min_ratio: float = 8.0
    min_dominance: float = 0.5
    most: int = 32
    controls: int = 8
    bars: Bars = field(default_factory=Bars)
    seed: int = 0


@dataclass(frozen=True)
class Findings:
    """The super weights of one checkpoint, where its residual spikes are, and how that was found out.

    `verdict` is the gravest of the candidates' (or of the strongest together), or `none` when nothing
    spikes. `joint` is the loss rise with all weights in `removed` zeroed together. `conditions` says on what
    it was measured, `notes` what the reader should know.
    """

    verdict: str
    candidates: tuple[SuperWeight, ...]
    layers: tuple[LayerSpike, ...]
    base_loss: Score
    joint: Score | None
    removed: tuple[str, ...]
    conditions: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def super_weights(self) -> SuperWeights:
        """The candidates that matter: critical or partial."""
        return SuperWeights(c for c in self.candidates if c.verdict in ("critical", "partial"))

    def _repr_html_(self) -> str:
        """The verdict, the candidates and the residual stream's peaks, as a notebook shows them."""
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        said = f"<p><b>{escape(self.verdict)}</b>: {len(self.super_weights)} of {len(self.candidates)} matter</p>"
        return said + table_of(self.candidates) + self._drawn() + notes

    def _drawn(self) -> str:
        """The largest residual value after each layer, as SVG; nothing where no layer was seen."""
        peaks = Series("largest value", tuple((layer.layer, layer.peak) for layer in self.layers))
        return (
            svg([line_chart("Residual stream", "layer", "|value|", [peaks], log=True)]) if self.layers else ""
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` reads back."""
        return {**asdict(self), "candidates": [c.to_json() for c in self.candidates]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Findings:
        """The findings that `to_json` wrote. Raises `SuperweightsError` naming the field for anything else."""
        return shaped(cls, data, "the findings", "superweights find MODEL --out FILE writes them.")
