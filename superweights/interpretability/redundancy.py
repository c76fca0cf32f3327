"""Which sub-layers change the residual stream least, and what is lost without them.

Source: LLM-Drop, "Uncovering the Redundancy in Transformers" (arXiv 2406.15786), equations 1 to 6: the importance of a
block, an attention or an MLP is 1 minus the mean over tokens of the cosine between the stream before and after it, norm
and residual included. Where we differ: the code's window of n blocks reads the similarity of n + 1, ours reads n; and
the least cosine of any token stands beside the mean, because a sub-layer that writes the massive activation of one
token in a window looks like any other by its mean.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.interpretability.pairs import Pairs
from superweights.interpretability.study import Study
from superweights.interpretability.words_of import number
from superweights.picture import Panel, Series, heat_map, line_chart
from superweights.pruning import DropEffect, Dropped, drop_effects
from superweights.record import Score
from superweights.taps import Site, Tap

KINDS = ("attention", "mlp", "block")
# Windows that dropping is scored on, after those that similarities are taken of; how many are dropped; random draws.
WINDOWS, _COUNTS, _DRAWS = 8, (1, 2, 4, 8), 3

# A sub-layer: its kind and the number of its layer.
Part = tuple[str, int]


@dataclass(frozen=True)
class Similarity:
    """The cosine between the stream before and after: mean over tokens, and that of the token it turns most."""

    mean: float
    least: float
    """Of the token that is turned most."""


@dataclass(frozen=True)
class LayerRedundancy:
    """The similarities of one layer; None where the block has no such part, or it cannot be told apart."""

    layer: int
    attention: Similarity | None
    """Across the attention."""
    mlp: Similarity | None
    """Across the MLP."""
    block: Similarity | None
    """Across both."""

    def of(self, kind: str) -> Similarity | None:
        """The similarity of a kind among `KINDS`."""
        return {"attention": self.attention, "mlp": self.mlp, "block": self.block}[kind]


@dataclass(frozen=True)
class Redundancy:
    """Similarities by layer; `runs[n - 1][l]` is the mean cosine between the stream before block l and after block
    l + n - 1, on up to 256 tokens a batch; `base` and `effects` say what dropping costs (causal): rows of a name,
    such as "attention, most similar", and the effect.
    """

    layers: tuple[LayerRedundancy, ...]
    """One for each layer."""
    runs: tuple[tuple[float, ...], ...]
    tokens: int
    base: Score | None = None
    effects: tuple[tuple[str, DropEffect], ...] = ()

    def order(self, kind: str) -> list[int]:
        """The layers by the similarity of this kind, most similar (most redundant) first."""
        held = [(e.layer, s.mean) for e in self.layers if (s := e.of(kind)) is not None]
        return [layer for layer, _ in sorted(held, key=lambda each: -each[1])]

    def scores(self) -> tuple[Score, ...]:
        found = []
        for kind in KINDS:
            means = [s.mean for e in self.layers if (s := e.of(kind)) is not None]
            if means:
                mean = sum(means) / len(means)
                found.append(Score(f"similarity across {kind}, mean of layers", mean, "cosine", self.tokens))
        return tuple(found) if self.base is None else (*found, self.base)

    def sheets(self) -> tuple[Sheet, ...]:
        columns = ["layer"]
        for kind in KINDS:
            columns += [kind, "least"]
        rows: list[list[Any]] = []
        for each in self.layers:
            cells = [(None, None) if (s := each.of(kind)) is None else (s.mean, s.least) for kind in KINDS]
            rows.append([each.layer, *(number for cell in cells for number in cell)])
        orders = "; ".join(
            f"{kind} {', '.join(map(str, self.order(kind)[:8]))}" for kind in KINDS if self.order(kind)
        )
        sheets = [
            Sheet(
                "cosine between the stream before and after",
                columns,
                rows,
                f"Most redundant first: {orders}. least: the token that is turned most. {self.tokens} tokens.",
            )
        ]
        if self.base is not None:
            effects = [
                (name, e.dropped.count, _layers_of(e.dropped), number(e.perplexity), number(e.loss))
                for name, e in self.effects
            ]
            titles = ("dropped", "number", "layers", "perplexity", "loss, nats/token")
            sheets.append(
                Sheet("what dropping costs", titles, effects, f"Perplexity with everything: {self.base}.")
            )
        return tuple(sheets)

    def panels(self) -> tuple[Panel, ...]:
        lines = [
            Series(kind, [(e.layer, s.mean) for e in self.layers if (s := e.of(kind)) is not None])
            for kind in KINDS
            if self.order(kind)
        ]
        panels = [line_chart("how alike the stream is before and after", "layer", "cosine", lines)]
        panels.append(heat_map("runs of blocks", "first block", "blocks in the run - 1", self.runs))
        if self.base is not None:
            curves: dict[str, list[tuple[float, float]]] = {}
            for name, effect in self.effects:
                curves.setdefault(name, [(0, self.base.value)]).append(
                    (effect.dropped.count, effect.perplexity.value)
                )
            drawn = [
                Series(name, points, dashed="random" in name)
                for name, points in curves.items()
                if "least" not in name
            ]
            panels.insert(0, line_chart("what dropping costs", "dropped", "perplexity", drawn, log=True))
        return tuple(panels)


def choose(found: Redundancy, kind: str, count: int, kept: Collection[Part] = ()) -> Dropped:
    """The `count` most similar of a kind: "attention", "mlp", "block", "joint" (attentions and MLPs in one order) or
    "run" (that many blocks in a row, by the similarity across the whole run). Parts in `kept` are passed over.

    Raises `SuperweightsError` where there are not so many.
    """
    if kind == "run":
        return _run(found, count, kept)
    kinds = ("attention", "mlp") if kind == "joint" else (kind,)
    each = [
        (similarity.mean, part, entry.layer)
        for part in kinds
        for entry in found.layers
        if (similarity := entry.of(part)) is not None and not _is_kept(part, entry.layer, kept)
    ]
    each.sort(key=lambda choice: -choice[0])
    return _dropped([(part, layer) for _, part, layer in each], count, kind)


def choose_at_random(
    found: Redundancy, kind: str, count: int, seed: int, kept: Collection[Part] = ()
) -> Dropped:
    """As many of a kind drawn at random, as a control; parts in `kept` are passed over here too."""
    draw = random.Random(f"{seed} {kind} {count}")
    if kind == "run":
        start = draw.choice(_free_starts(found, count, kept))
        return Dropped(blocks=tuple(range(start, start + count)))
    kinds = ("attention", "mlp") if kind == "joint" else (kind,)
    parts = [
        (part, entry.layer)
        for part in kinds
        for entry in found.layers
        if entry.of(part) is not None and not _is_kept(part, entry.layer, kept)
    ]
    draw.shuffle(parts)
    return _dropped(parts, count, kind)


def _is_kept(kind: str, layer: int, kept: Collection[Part]) -> bool:
    parts = ("attention", "mlp") if kind == "block" else (kind,)
    return any((part, layer) in kept for part in parts)


def _dropped(parts: list[Part], count: int, kind: str) -> Dropped:
    if not 0 < count <= len(parts):
        raise SuperweightsError(
            f"{count} of kind {kind} are to go, and {len(parts)} could.", hint="ask for fewer, at least one."
        )
    by_kind: dict[str, list[int]] = {"attention": [], "mlp": [], "block": []}
    for part, layer in parts[:count]:
        by_kind[part].append(layer)
    return Dropped(tuple(by_kind["attention"]), tuple(by_kind["mlp"]), tuple(by_kind["block"]))


def _free_starts(found: Redundancy, count: int, kept: Collection[Part]) -> list[int]:
    layers = len(found.layers)
    if not 0 < count < layers:
        raise SuperweightsError(
            f"A run of {count} blocks does not fit into {layers} layers.", hint="ask for fewer, at least one."
        )
    free = [
        start
        for start in range(layers - count + 1)
        if not any(_is_kept("block", layer, kept) for layer in range(start, start + count))
    ]
    if not free:
        raise SuperweightsError(
            f"Every run of {count} blocks holds a part that is to stay.", hint="ask for a shorter run."
        )
    return free


def _run(found: Redundancy, count: int, kept: Collection[Part]) -> Dropped:
    starts = _free_starts(found, count, kept)
    best = max(starts, key=lambda start: found.runs[count - 1][start])
    return Dropped(blocks=tuple(range(best, best + count)))


def _layers_of(dropped: Dropped) -> str:
    return str(dropped) if bool(dropped.attention) + bool(dropped.mlp) > 1 else str(dropped).split(" ", 1)[1]


class Redundancies:
    """The question as a reduction: cosines across attention, MLP and block."""

    def __init__(self) -> None:
        self._sums: dict[Part, list[float]] = {}
        self._n = 0
        self._pairs = Pairs(lambda cosines: cosines)
        self._before: Tensor | None = None
        self._mid: Tensor | None = None
        self._sequential: set[int] = set()
        self._layers = 0

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        body.every("block_in", "block_out")
        self._layers = body.layers
        self._sequential = set(body.sites.layers_with("mid"))
        taps: dict[Site, Tap] = {}
        for layer in range(body.layers):
            taps[Site("block_in", layer)] = self._start
            taps[Site("block_out", layer)] = lambda h, layer=layer: self._end(layer, h)
            for kind, site in (("attention", Site("attn_write", layer)), ("mlp", Site("mlp_write", layer))):
                if site in body.sites.places:
                    taps[site] = lambda write, kind=kind, layer=layer: self._wrote(kind, layer, write)
        return taps

    def begin(self, ids: Tensor) -> None:
        self._n += ids.numel()
        self._pairs.begin()

    def _start(self, stream: Tensor) -> None:
        self._before = self._mid = stream.clone()
        self._pairs.note(stream)

    def _wrote(self, kind: str, layer: int, write: Tensor) -> None:
        assert self._before is not None
        assert self._mid is not None
        # where the two stand side by side, both add to the stream that entered the block
        given = self._mid if kind == "mlp" and layer in self._sequential else self._before
        after = given + write
        self._add(kind, layer, given, after)
        if kind == "attention":
            self._mid = after

    def _end(self, layer: int, stream: Tensor) -> None:
        assert self._before is not None
        self._add("block", layer, self._before, stream)
        if layer == self._layers - 1:
            self._pairs.note(stream)
            self._pairs.end()

    def _add(self, kind: str, layer: int, before: Tensor, after: Tensor) -> None:
        before, after = before.float(), after.float()
        norms = before.norm(dim=-1) * after.norm(dim=-1)
        cosines = torch.linalg.vecdot(before, after) / norms.clamp_min(torch.finfo(torch.float32).tiny)
        held = self._sums.setdefault((kind, layer), [0.0, torch.inf])
        held[0] += cosines.sum(dtype=torch.float64).item()
        held[1] = min(held[1], cosines.min().item())

    def answer(self) -> Redundancy:
        def similarity(kind: str, layer: int) -> Similarity | None:
            held = self._sums.get((kind, layer))
            return None if held is None else Similarity(held[0] / self._n, held[1])

        layers = tuple(
            LayerRedundancy(layer, *(similarity(kind, layer) for kind in KINDS))
            for layer in range(self._layers)
        )
        return Redundancy(layers, self._pairs.means(), self._n)


def reduction(study: Study) -> Redundancies:
    """The question for `study`, without interventions."""
    return Redundancies()


def investigate(study: Study) -> Redundancy:
    """The question for `study`, with 1, 2, 4 and 8 parts of each kind dropped, scored on its last eight windows.

    Similarities are taken of the other windows, where there are more. Controls: as many parts drawn at random,
    three times, and the least similar ones.
    """
    held_out = min(WINDOWS, len(study.ids) // 2)
    if not held_out:
        raise SuperweightsError("One window cannot both choose and judge.", hint="use two windows or more.")
    found: Redundancy = replace(study, ids=study.ids[:-held_out]).ask(Redundancies())[0]
    rows: list[tuple[str, Dropped]] = []
    for kind in (kind for kind in KINDS if found.order(kind)):
        for count in (n for n in _COUNTS if n < len(found.order(kind))):
            rows.append((f"{kind}, most similar", choose(found, kind, count)))
            draws = (choose_at_random(found, kind, count, study.seed + draw) for draw in range(_DRAWS))
            rows += [(f"{kind}, random {draw}", dropped) for draw, dropped in enumerate(draws, 1)]
        least = found.order(kind)[-_COUNTS[2] :]
        name = {"attention": "attention", "mlp": "mlp", "block": "blocks"}[kind]
        rows.append((f"{kind}, least similar", Dropped(**{name: tuple(least)})))
    base, effects = drop_effects(
        study.model,
        study.ids[-held_out:],
        [dropped for _, dropped in rows],
        batch_size=study.batch_size,
        progress=study.progress,
    )
    named = tuple((name, effect) for (name, _), effect in zip(rows, effects, strict=True))
    return replace(found, base=base, effects=named)
