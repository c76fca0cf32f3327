"""What a search looks for, and what it found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from superweights.address import Address
from superweights.artefacts.shape import shaped
from superweights.discovery.proof import Bars
from superweights.discovery.residual import LayerSpike
from superweights.picture.lines import Series, line_chart
from superweights.picture.page import svg
from superweights.record import MATTERS, Control, Record, Score, SuperWeight, SuperWeights, table_of


@dataclass(frozen=True)
class Search:
    """How to search; the defaults need no thought.

    `prompts`: short texts to look at (None: a few built-in sentences), cut to `prompt_length` tokens. Whether texts
    begin with the beginning-of-sequence token is `bos`: `auto` as the tokenizer does by itself, or `yes`, `no`.

    The first proving pass is on `windows` stretches of `length` tokens of the text (None: 128, or the model's
    context; 0 windows: judge on the prompts alone); each further pass takes as many again as there were, up to
    `most_windows`, for what is not decided, in at most `budget` proving passes.

    `rounds`: how often the strongest are removed to look for others that they mask. `min_ratio`: an output spikes
    when it is this many times the median channel's (the accepted ones of 22 published models lie between 10 and
    7,124); `min_dominance`: one product must make this share of it. `most` candidates of a kind are put to the
    proof. `controls`: how many weights that should not matter are zeroed together in each window for comparison.
    `greedy`: so many tokens are written after the beginnings of some windows, with and without each super weight, to
    see whether the text repeats itself (0: none; the whole model is in memory for it).
    `tower` is the part of a model with several stacks of blocks that is searched (`encoder`, `vision`; None: all).
    `bars` are where the verdicts begin, for losses in nats per token; those of an embedding follow from how far the
    model's own embeddings lie apart. Nothing here is an absolute size of activations.
    """

    prompts: tuple[str, ...] | None = None
    prompt_length: int = 12
    windows: int = 4
    length: int | None = None
    most_windows: int = 32
    budget: int = 6
    bos: str = "auto"
    rounds: int = 1
    min_ratio: float = 8.0
    min_dominance: float = 0.5
    most: int = 32
    controls: int = 8
    greedy: int = 0
    bars: Bars = field(default_factory=Bars)
    """Where the verdicts begin, in nats per token."""
    seed: int = 0
    """Of the weights that are drawn for comparison."""
    tower: str | None = None
    """The part that is searched of a model with several stacks of blocks; None: all."""

    @classmethod
    def quick(cls, **settings: Any) -> Search:
        """A short search on eight windows of 32 tokens, without more where a verdict is close."""
        return cls(**{"windows": 8, "length": 32, "most_windows": 8, **settings})


@dataclass(frozen=True)
class Group:
    """Weights that are critical together while none of them is alone.

    `kind`: `column` (what one neuron writes), `layers` (writers of several columns) or `backup` (the last member takes
    over when the first is gone, which is critical or partial itself). `effect`: the loss rise without all of them,
    in nats per token; for a backup, what the second adds where the first is gone. `smallest`: no part of it was
    found to be critical. `controls`: as many other weights of the column. `repetition`: the repetition rate of greedy
    text without all of them, where it was asked for.
    """

    name: str
    """What the reader calls it: the tensor and its neuron, or the tensors."""
    kind: str
    members: tuple[str, ...]
    """The addresses of its weights."""
    effect: Score
    smallest: bool = True
    controls: tuple[Control, ...] = ()
    repetition: Score | None = None


@dataclass(frozen=True)
class Expert:
    """An expert of a mixture whose output is an outlier, and what the model loses without it.

    `routed` and `forced`: the largest |output| of its down-projection over the `tokens` that the router sent to it, and
    over all tokens of the prompts; `ratio` the larger of the two over the median expert of the layer. `by_paper`: the
    rule of arXiv 2507.23279 calls it super. `effect`: the loss rise when no token reaches it and the other gates stay
    as they are, `renormalised` when these are scaled to the same sum; `control` the mean for up to three other
    experts of the layer, in nats per token. `verdict`: critical, partial, benign, undecided, or unreached where no
    token of the text was sent to it. `inside` is the weight that makes its largest output, of which it makes the
    `share`.
    """

    module: str
    """The module that holds the layer's experts."""
    layer: int
    """The block, counted from 0."""
    expert: int
    """Which expert of the layer."""
    routed: float
    forced: float
    tokens: int
    ratio: float
    by_paper: bool
    verdict: str
    effect: Score | None
    renormalised: Score | None
    control: Score | None
    inside: str | None
    value: float
    """The weight `inside`; 0 where there is none."""
    share: float

    @property
    def matters(self) -> bool:
        """Whether it is a super expert: something is lost without it."""
        return self.verdict in MATTERS


@dataclass(frozen=True)
class Findings:
    """The super weights of one checkpoint, where its residual spikes are, and how that was found out.

    `verdict` is the gravest of the candidates' and experts', or `none` when nothing spikes. `groups` matter together,
    `experts` are outliers of a mixture. `joint` is the loss rise with all weights in `removed` zeroed together.
    `conditions` says on what it was measured (how texts begin, how many windows, how many weights were tested),
    `notes` what the reader should know. `repetition` is the repetition rate of the unedited model's greedy text, where
    it was asked for.
    """

    verdict: str
    candidates: tuple[SuperWeight, ...]
    layers: tuple[LayerSpike, ...]
    """The largest residual value after each block, in order."""
    base_loss: Score
    """The model's own loss on the same windows, in nats per token."""
    joint: Score | None
    removed: tuple[str, ...]
    conditions: dict[str, Any]
    notes: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    experts: tuple[Expert, ...] = ()
    repetition: Score | None = None

    @property
    def super_weights(self) -> SuperWeights:
        """The candidates that matter: critical, joint or partial; and the weights that make a super expert's output.

        The latter as plain weights, where they are no candidates themselves.
        """
        found = [c for c in self.candidates if c.matters]
        return SuperWeights([*found, *self._inside({c.address for c in found})])

    def _inside(self, known: set[Address]) -> list[SuperWeight]:
        inside = [(e, Address.parse(e.inside)) for e in self.experts if e.matters and e.inside]
        return [
            SuperWeight(a, e.value, verdict=e.verdict, layer=e.layer, group=f"{e.module}, expert {e.expert}")
            for e, a in inside
            if a not in known
        ]

    def __str__(self) -> str:
        """The answer and its table, as `superweights find` prints them."""
        return str(Record("find", {}, {}, findings=self))

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
