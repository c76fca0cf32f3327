"""What attention is worth: perplexity with other weights in its place, in the late layers and in all of them.

See `replacing` for what is done, and its source. The controls are as many layers drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.attention_ablation.ablating import MODES, attention_replaced
from superweights.interpretability.body import Body
from superweights.interpretability.kinds import kinds_of
from superweights.interpretability.study import Study
from superweights.interpretability.words_of import number
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score
from superweights.scoring import loss_change, loss_per_window, perplexity_of
from superweights.subject import objective_of

# Windows that are scored, and where the late layers begin and end as shares of the depth (22 to 28 of 30, the
# published range 21 to 27 of 28).
WINDOWS, _LATE = 8, (0.74, 0.96)
# Random draws of as many layers, for the mode that is controlled.
_DRAWS, _CONTROLLED = 3, "uniform"


@dataclass(frozen=True)
class Replacement:
    """One row: what replaces attention (`mode`), in which layers (`scope`), and what it costs."""

    mode: str
    scope: str
    layers: tuple[int, ...]
    """The layers themselves."""
    perplexity: Score
    """Of the changed model."""
    loss: Score
    """The paired rise of the loss, nats per token."""


@dataclass(frozen=True)
class Replacements:
    """Perplexity with attention as it is, and with each mode in each scope; `controls` are random layers.

    `kinds` are rows of a model that is given more than text: the weight on the keys of one kind of token is dealt out
    evenly among them (`uniform on image`), or only the queries of one kind are replaced (`uniform for text`).
    """

    base: Score
    """Perplexity with attention as it is."""
    rows: tuple[Replacement, ...]
    """One for each mode and scope."""
    controls: tuple[Replacement, ...]
    kinds: tuple[Replacement, ...] = ()

    def scores(self) -> tuple[Score, ...]:
        named = [replace(e.perplexity, name=f"perplexity, {e.mode}, layers {e.scope}") for e in self.rows]
        return (self.base, *named)

    def sheets(self) -> tuple[Sheet, ...]:
        def row(each: Replacement) -> tuple:
            return (each.mode, each.scope, number(each.perplexity), number(each.loss))

        titles = ("in its place", "layers", "perplexity", "loss, nats/token")
        rows = [
            ("(as it is)", "", number(self.base), ""),
            *map(row, (*self.rows, *self.kinds, *self.controls)),
        ]
        note = "; ".join(f"{mode}: {what}" for mode, what in MODES.items())
        return (Sheet("attention replaced", titles, rows, note),)

    def panels(self) -> tuple[Panel, ...]:
        scopes = list(dict.fromkeys(each.scope for each in self.rows))
        modes = list(dict.fromkeys(each.mode for each in self.rows))
        series = [
            Series(
                scope,
                [(modes.index(e.mode), e.perplexity.value) for e in self.rows if e.scope == scope],
            )
            for scope in scopes
        ]
        series.append(Series("as it is", [(n, self.base.value) for n in range(len(modes))], dashed=True))
        marks = {float(number): mode for number, mode in enumerate(modes)}
        return (line_chart("attention replaced", "mode", "perplexity", series, log=True, marks=marks),)


def replacements(
    study: Study, scopes: Sequence[tuple[str, Sequence[int]]], modes: Sequence[str] = tuple(MODES)
) -> list[Replacement]:
    """Perplexity under each of `modes` in each scope `(name, layers)`, on all windows of the study."""
    ids = study.ids
    base = loss_per_window(study.model, ids, batch_size=_batch(study))
    found = []
    for scope, layers in scopes:
        for mode in modes:
            study.progress(f"{mode}, {scope}", len(found), len(scopes) * len(modes))
            with attention_replaced(study.model, mode, layers, seed=study.seed, tower=study.tower):
                losses = loss_per_window(study.model, ids, batch_size=_batch(study, mode))
            found.append(
                Replacement(mode, scope, tuple(layers), perplexity_of(losses), loss_change(base, losses))
            )
    return found


def investigate(study: Study) -> Replacements:
    """The question for `study`, on its first eight windows: every mode in the late layers and in all."""
    body = Body.of(study.model, study.tower)
    attending = body.attending()
    study = _first(study, WINDOWS)
    base: Tensor = loss_per_window(study.model, study.ids, batch_size=_batch(study))
    start, end = (round(share * body.layers) for share in _LATE)
    late = [layer for layer in attending if start <= layer < end] or list(attending[-1:])
    rows = replacements(study, [(_span(late), late), ("all", attending)])
    draws = random.Random(study.seed)
    chosen = [sorted(draws.sample(attending, len(late))) for _ in range(_DRAWS)]
    controls = replacements(study, [(f"random {_span(each)}", each) for each in chosen], [_CONTROLLED])
    kinds = _by_kind(study, base, late)
    return Replacements(perplexity_of(base), tuple(rows), tuple(controls), tuple(kinds))


def _by_kind(study: Study, base: Tensor, layers: Sequence[int]) -> Iterator[Replacement]:
    """Uniform attention among the keys of each kind of token, and for the queries of each, in these layers.

    Nothing where the model is given text alone, or where kinds do not stand at the same positions in every row.
    """
    ids = objective_of(study.model).batch(study.ids, whole=True).arguments.get("input_ids")
    kinds = {} if ids is None or study.tower is not None else kinds_of(ids, study.model.config)
    if not set(kinds) - {"first", "text"} or any(bool((mask != mask[:1]).any()) for mask in kinds.values()):
        return
    for kind, mask in kinds.items():
        scopes: tuple[tuple[str, dict[str, Any]], ...] = (
            ("on", {"keys": mask[0]}),
            ("for", {"queries": mask[0]}),
        )
        for word, scope in scopes:
            with attention_replaced(study.model, _CONTROLLED, layers, seed=study.seed, **scope):
                losses = loss_per_window(study.model, study.ids, batch_size=_batch(study))
            name = f"{_CONTROLLED} {word} {kind}"
            yield Replacement(
                name, _span(layers), tuple(layers), perplexity_of(losses), loss_change(base, losses)
            )


def _first(study: Study, windows: int) -> Study:
    if len(study.ids) < 2 or study.ids.shape[1] < 2:
        raise SuperweightsError(
            "Replaced attention needs two windows of two tokens or more.", hint="use more windows of a text."
        )
    return replace(study, ids=study.ids[:windows])


def _batch(study: Study, mode: str = "") -> int:
    """Windows at a time; two or more in every batch where weights are shuffled between texts."""
    n, tokens = study.ids.shape
    size = max(1, min(n, study.batch_size or 2048 // tokens))
    if mode == "shuffled":
        size = max(2, size)
        while n % size == 1:
            size += 1
    return size


def _span(layers: Sequence[int]) -> str:
    together = list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if together else ", ".join(map(str, layers))
