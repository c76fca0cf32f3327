"""`superweights.tour`: what super weights are, shown on a model in about a minute."""

from __future__ import annotations

import math
import random
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superweights.address import Address
from superweights.budget import check_plans
from superweights.checkpoint import Checkpoint
from superweights.discovery import Search
from superweights.discovery import find as search_for
from superweights.editing import edited, zero
from superweights.errors import SuperweightsError
from superweights.findings.tour import Tour, TourPart
from superweights.index.choice import TO_PROTECT, Choice, choose_weights
from superweights.interpretability.body import Body
from superweights.picture.letters import columns
from superweights.progress import Progress, silent
from superweights.quantization.defaults import Rounding
from superweights.quantization.plan import Plan
from superweights.record import Record, Score
from superweights.reproductions.losses import losses_of
from superweights.scoring import Variant, perplexity_of
from superweights.scoring.generate import continue_beside
from superweights.stream.linears import linear_tensors
from superweights.stream.opening import Opened, opening
from superweights.subject import Reading, Source, context_of
from superweights.taps import Site, tapping
from superweights.wording import counted

# What is written on, and what is read: little, so that the tour takes a minute on two cores.
PROMPT = "The capital of France is"
NEW_TOKENS = 16
READ = Reading(window=64, windows=8)
ROUNDED_ON = Reading(window=128, windows=2)
# So many of the known weights are tried alone, and int4 is clipped at so many standard deviations.
_TRIED, _CLIP = 4, 6.0

Tell = Callable[[TourPart], None]


def tour(
    model: Any = None,
    weights: Sequence[Address | str] = (),
    *,
    record: Record | Path | str | None = None,
    prompt: str | None = None,
    seed: int = 0,
    tell: Tell = lambda part: None,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.tour.Tour`; `tell` gets each part as soon as it is there.

    Text with and without the gravest super weight, what it costs beside another weight of its matrix, where attention
    goes, and int4 with clipping when it is held out and when not. The weights are those named, those of a `record`
    of `find`, the known ones, or what a quick search finds.

    >>> record = tour("embedded", tell=lambda part: print(*part.lines, sep="\\n"))     # doctest: +SKIP
    """
    source = Source.of(model)
    progress("opening", 0, 1)
    with opening(source) as opened:
        guide = _Guide(opened, source, prompt or PROMPT, seed, tell, progress)
        found = guide.round_trip(guide.chosen(weights, record))
        return Record.of("tour", opened.checkpoint, seed=seed, scores=guide.scores, findings=found)


@dataclass(eq=False)
class _Guide:
    """One tour through one open model."""

    opened: Opened
    source: Source
    prompt: str
    seed: int
    tell: Tell
    progress: Progress
    parts: list[TourPart] = field(default_factory=list)
    scores: tuple[Score, ...] = ()

    def round_trip(self, chosen: Choice) -> Tour:
        """All parts, one after the other."""
        if not chosen.addresses:
            self._told("No super weight", ["None is known here, and a quick search proved none."])
            return self._tour(chosen, None, (None, None), (None, None))
        trial = self._measured(chosen.addresses)
        self._text(trial.gravest)
        self._cost(chosen, trial)
        self._inside(trial.gravest)
        perplexities = perplexity_of(trial.base), perplexity_of(trial.without)
        rounded = self._int4(chosen.addresses)
        self.scores = tuple(score for score in (*perplexities, *rounded) if score is not None)
        return self._tour(chosen, trial.gravest, perplexities, rounded)

    def _tour(self, chosen: Choice, gravest: Address | None, now: Sequence, rounded: Sequence) -> Tour:
        commands = self._next()
        self._told("Go on", commands)
        named = tuple(map(str, chosen.addresses))
        return Tour(
            tuple(self.parts), named, gravest and str(gravest), *now, *rounded, next_commands=tuple(commands)
        )

    def _told(self, title: str, lines: Sequence[str]) -> None:
        part = TourPart(title, tuple(lines))
        self.parts.append(part)
        self.tell(part)

    def chosen(self, weights: Sequence[Address | str], record: Record | Path | str | None) -> Choice:
        """The weights that it is about."""

        def search() -> Any:
            return search_for(self.opened.checkpoint, Search.quick(), progress=self.progress).super_weights

        return choose_weights(
            self.opened.checkpoint, weights, record, policies=(*TO_PROTECT, "search"), search=search
        )

    def _measured(self, addresses: Sequence[Address]) -> _Trial:
        """The losses of the model, without each of the first few weights, and without another of each one's matrix."""
        tried = addresses[:_TRIED]
        controls = [_another(self.opened.checkpoint, address, addresses, self.seed) for address in tried]
        losses = losses_of(
            self.opened.model,
            self._windows(READ),
            [zero([address]) for address in (*tried, *controls)],
            progress=self._named("what each costs"),
        )
        worst = int(losses[1 : 1 + len(tried)].mean(1).argmax())
        other = 1 + len(tried) + worst
        return _Trial(tried[worst], controls[worst], losses[0], losses[1 + worst], losses[other])

    def _cost(self, chosen: Choice, trial: _Trial) -> None:
        numbers = sum(info.size for info in self.opened.checkpoint.tensors.values())
        rises = [(losses - trial.base).mean() for losses in (trial.without, trial.other)]
        self._told(
            f"One number of {numbers:,}",
            [
                f"{counted(len(chosen.addresses), 'super weight')} ({chosen.how}).",
                f"Without {trial.gravest} alone",
                f"perplexity is {_times(rises[0])} times as high ({perplexity_of(trial.base).value:.4g} before);",
                f"without {trial.control}, another of its matrix, {_times(rises[1])} times.",
            ],
        )

    def _text(self, gravest: Address) -> None:
        model = self.opened.model
        (written,) = continue_beside(
            model,
            Variant(model, partial(edited, model, zero([gravest]), verify=False)),
            self.opened.tokenizer,
            [self.prompt],
            new_tokens=NEW_TOKENS,
        )
        before, after = (" ".join(text.split()) for text in (written.base, written.other))
        self._told(
            "What it writes",
            [f"with it     {self.prompt}: {before}", f"without it  {self.prompt}: {after}"],
        )

    def _inside(self, gravest: Address) -> None:
        """What becomes of the residual stream, and of attention on the first token."""
        ids = self._windows(READ)[:2]
        try:
            body = Body.of(self.opened.model)
            layers, peaks = body.attending(), body.every("block_out")
        except SuperweightsError as error:
            self._told("Inside", [error.message])
            return
        seen = {"with it": _looked(self.opened.model, layers, peaks, ids)}
        with edited(self.opened.model, zero([gravest]), verify=False):
            seen["without it"] = _looked(self.opened.model, layers, peaks, ids)
        top = max(max(peaks) for _, peaks in seen.values())
        lines = [f"largest value in the residual stream, layer by layer (logarithmic, 1 to {top:,.0f})"]
        for name, (_, largest) in seen.items():
            heights = [math.log(max(value, 1.0)) for value in largest]
            lines += _labelled(
                name, columns(heights, math.log(max(top, 2.0))), f"at most {max(largest):,.0f}"
            )
        lines += ["", "attention on the first token, layer by layer (full height: all of it)"]
        for name, (shares, _) in seen.items():
            lines += _labelled(name, columns(shares, 1.0), f"mean {sum(shares) / len(shares):.0%}")
        self._told("Inside", lines)

    def _int4(self, addresses: Sequence[Address]) -> tuple[Score | None, Score | None]:
        """Perplexity with every matrix in int4, clipped: the super weights rounded like all others, and held out."""
        checkpoint = self.opened.checkpoint
        try:
            # One scale for each output channel: in small groups a weight that alone makes the range does little harm.
            rounding = Rounding(group=0, zero_point="none", fit="range", clip_z=_CLIP)
            scheme = rounding.scheme(checkpoint, "packed")
            tensors = linear_tensors(checkpoint)
            inside = [address for address in addresses if address.tensor in tensors]
            plans = [Plan.uniform(tensors, scheme, keep) for keep in ((), inside)]
            self.progress("int4", 0, 1)
            plain, kept = check_plans(
                checkpoint, plans, self._windows(ROUNDED_ON), device=self.source.device, seed=self.seed
            )
        except SuperweightsError as error:
            self._told("In four bits", [error.message])
            return None, None
        if kept.base is None or plain.other is None or kept.other is None:
            return None, None  # it predicts nothing
        self._told(
            "In four bits",
            [
                f"{scheme}: perplexity {kept.base.value:,.4g} becomes",
                f"  {plain.other.value:,.4g}  with the super weights rounded like all others",
                f"  {kept.other.value:,.4g}  with {counted(len(inside), 'number')} held out and kept exactly",
            ],
        )
        return plain.other, kept.other

    def _next(self) -> list[str]:
        named = isinstance(self.source.name, str | Path)
        name = shlex.quote(str(self.source.name)) if named else "embedded"
        to = shlex.quote(f"{Path(str(self.source.name)).name if named else 'smollm2'}-int4")
        return [
            f"superweights find {name} --out found.json",
            f"superweights quantize {name} --to {to} --from found.json",
            f"superweights explore {name}",
        ]

    def _windows(self, reading: Reading) -> Tensor:
        fitting = min(reading.window, context_of(self.opened.model) or reading.window)
        return replace(reading, window=fitting).cut(self.opened.tokenizer)

    def _named(self, label: str) -> Progress:
        return lambda _, done, total: self.progress(label, done, total)


@dataclass(frozen=True)
class _Trial:
    """What the windows cost, each `[windows]` in nats per token."""

    gravest: Address
    """The weight whose loss costs most."""
    control: Address
    """Another weight of its matrix."""
    base: Tensor
    """The model as it is."""
    without: Tensor
    """Without the gravest."""
    other: Tensor
    """Without the control."""


def _another(checkpoint: Checkpoint, address: Address, avoid: Sequence[Address], seed: int) -> Address:
    """A weight drawn at random from the matrix of `address`."""
    shape, draw = checkpoint.tensors[address.tensor].shape, random.Random(seed)
    while True:
        other = Address(address.tensor, tuple(draw.randrange(size) for size in shape))
        if other not in avoid:
            return other


def _looked(
    model: Any, layers: Sequence[int], peaks: Sequence[Site], ids: Tensor
) -> tuple[list[float], list[float]]:
    """Of each of `layers` the mean attention on token 0, over heads and all queries but the first; and the largest |x|
    at each of `peaks`."""
    shares: dict[int, float] = {}
    largest: dict[int, float] = {}

    def weigh(layer: int, weights: Tensor) -> None:
        shares[layer] = float(weights[..., 1:, 0].float().mean())

    def measure(layer: int, hidden: Tensor) -> None:
        largest[layer] = float(hidden.abs().max())

    taps: dict[Site, Any] = {Site("weights", layer): partial(weigh, layer) for layer in layers}
    taps |= {site: partial(measure, site.layer or 0) for site in peaks}
    with torch.no_grad(), tapping(model, taps):
        model(input_ids=ids.to(model.device), use_cache=False)
    return [shares[layer] for layer in layers], [largest[site.layer or 0] for site in peaks]


def _labelled(name: str, rows: Sequence[str], told: str) -> list[str]:
    """The rows of a picture with its name in front and what it tells behind."""
    lines = [f"{name if n == len(rows) - 1 else '':<12}|{row}|" for n, row in enumerate(rows)]
    lines[-1] += f"  {told}"
    return lines


def _times(rise: Any) -> str:
    """How many times as high a perplexity is that rose by so many nats."""
    return f"{float(torch.as_tensor(rise).exp()):,.3g}"
