"""Which units know a relation, and whether the model loses it without them.

Source: "Relation-specific neurons" (arXiv 2502.17355), after Cuadros et al. 2022: units (outputs of the MLPs' linear
layers) ranked by the average precision with which they tell prompts of a relation from others; prompts are zero-shot,
the answer is two greedy tokens. Kept: prompts that the model completes, negatives of four times the number from other
relations, subjects that never stand on both sides. Where we differ: ties are handled (a constant unit has no precision
to speak of), equal units are ordered by their margin, a permutation null says how many would be as good by chance,
units may rank with either sign, random sets hold no spiking units, and prompts that the model fails before count in the
evaluation, so that interference (it does better without) can be seen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.interpretability.body import Body
from superweights.interpretability.relations.answer import (
    Controls,
    Cumulativity,
    RelationNeurons,
    RelationUnits,
    Unit,
    Zeroed,
)
from superweights.interpretability.relations.average_precision import average_precision, chance
from superweights.interpretability.relations.examination import Examination
from superweights.interpretability.relations.prompts import Relation, read_relations
from superweights.interpretability.relations.units import unit_modules, unit_values, units_zeroed
from superweights.interpretability.study import Study
from superweights.record import Score
from superweights.scoring import loss_change, loss_per_window
from superweights.scoring.error import mean_error

# Sizes of the sets that are zeroed (the paper's own for 7 billion parameters go from 10 to 50,000).
COUNTS = (100, 500, 1500)
_NEGATIVES, _DRAWS, _PERMUTATIONS, _WINDOWS = 4, 3, 20, 8
# A spiking unit: the criterion of massive activations, for outputs.
_SIZE, _RATIO = 100.0, 30.0
SIGNS = ("positive", "both")


@dataclass(frozen=True, eq=False)
class Ranking:
    """The units of one relation, best first: module (its place in `paths`), unit, precision, sign, margin of each."""

    paths: tuple[str, ...]
    module: Tensor
    unit: Tensor
    precision: Tensor
    sign: Tensor
    margin: Tensor

    def chosen(self, first: int, last: int) -> dict[str, Tensor]:
        """Units `first` to `last` of the order, by path."""
        module, unit = self.module[first:last], self.unit[first:last]
        return {path: unit[module == n] for n, path in enumerate(self.paths) if bool((module == n).any())}


def rank(values: Mapping[str, Tensor], positive: Tensor, sign: str = "positive") -> Ranking:
    """All units, best first: by average precision for `positive [prompts]`, then by margin.

    `values [prompts, units]` by path are what the units say. With `sign` "both" a unit may also rank from low to high.
    """
    if sign not in SIGNS:
        raise SuperweightsError(f"There is no sign {sign!r}.", hint=f"choose one of {', '.join(SIGNS)}.")
    paths = tuple(values)
    parts = [_ranked(values[path], positive, sign == "both") for path in paths]
    precision, signs, margin = (torch.cat(each) for each in zip(*parts, strict=True))
    module = torch.cat([torch.full((len(p[0]),), n) for n, p in enumerate(parts)])
    unit = torch.cat([torch.arange(len(p[0])) for p in parts])
    order = margin.argsort(descending=True, stable=True)
    order = order[precision[order].argsort(descending=True, stable=True)]
    return Ranking(paths, module[order], unit[order], precision[order], signs[order], margin[order])


def _ranked(values: Tensor, positive: Tensor, both: bool) -> tuple[Tensor, Tensor, Tensor]:
    precision = average_precision(values, positive)
    sign = torch.ones_like(precision)
    if both:
        negative = average_precision(-values, positive)
        sign[negative > precision] = -1
        precision = torch.maximum(precision, negative)
    apart = values[positive].mean(0) - values[~positive].mean(0)
    spread = values.std(0, correction=0)
    return precision, sign, torch.where(spread > 0, (apart / spread).double() * sign, 0.0)


def investigate(
    study: Study, *, counts: Sequence[int] = COUNTS, pool: str = "mean", sign: str = "positive"
) -> RelationNeurons:
    """The question for `study`, on the relations of `study.prompts` (None: the built-in ones).

    Raises `SuperweightsError` for models without MLPs of linear layers, and for a relation of which the model completes
    fewer than two prompts among those that find units.
    """
    relations = read_relations(study.prompts)
    body = Body.of(study.model)
    modules = unit_modules(body)
    total = sum(units for _, units in modules.values())
    sizes = tuple(count for count in counts if count < total) or (max(1, total // 10),)
    exam = Examination(study, relations)
    detection = {name: exam.completed_in_detection(name) for name in exam.names}
    prompts = [exam.prompt_ids(name, n) for name in exam.names for n in detection[name]]
    owner = [name for name in exam.names for _ in detection[name]]
    values, peaks = unit_values(study.model, modules, prompts, pool)
    spikes = {path: _spiking(peak) for path, peak in peaks.items()}
    rankings, found = {}, []
    for relation in relations:
        rows, positive = _examples(relation.name, owner, study.seed)
        held = {path: value[rows] for path, value in values.items()}
        rankings[relation.name] = rank(held, positive, sign)
        null = _null(held, positive, sign, study.seed)
        found.append(_told(exam, relation, rankings[relation.name], null, modules, sizes[-1], body.layers))
    base = exam.accuracies()
    zeroed, right = _zeroed(exam, rankings, spikes, modules, sizes, base)
    return RelationNeurons(
        total,
        pool,
        sign,
        tuple(found),
        base,
        zeroed,
        _cumulativity(exam, rankings, sizes, right),
        _overlaps(rankings, sizes[-1]),
        tuple(
            _elsewhere(exam, relation, rankings[relation.name], sizes[len(sizes) // 2])
            for relation in relations
        ),
    )


def _examples(name: str, owner: list[str], seed: int) -> tuple[Tensor, Tensor]:
    """The rows that tell this relation from others, and which of them are its own."""
    mine = [row for row, each in enumerate(owner) if each == name]
    others = [row for row, each in enumerate(owner) if each != name]
    drawn = random.Random(f"{seed} {name}").sample(others, min(len(others), _NEGATIVES * len(mine)))
    return torch.tensor(mine + drawn), torch.tensor([True] * len(mine) + [False] * len(drawn))


def _spiking(peaks: Tensor) -> Tensor:
    return (peaks > _SIZE) & (peaks > _RATIO * peaks.median())


def _null(values: Mapping[str, Tensor], positive: Tensor, sign: str, seed: int) -> Tensor:
    """The average precisions `[permutations, units]` of all units with labels dealt out at random."""
    found = []
    for held in values.values():
        drawn = chance(held, positive, _PERMUTATIONS, seed)
        found.append(
            torch.maximum(drawn, chance(-held, positive, _PERMUTATIONS, seed)) if sign == "both" else drawn
        )
    return torch.cat(found, 1)


def _told(
    exam: Examination,
    relation: Relation,
    ranking: Ranking,
    null: Tensor,
    modules: Mapping[str, tuple[int, int]],
    largest: int,
    layers: int,
) -> RelationUnits:
    near = 1 - 1e-9
    threshold = ranking.precision[largest - 1].item()
    by_layer = [0] * layers
    for path, units in ranking.chosen(0, largest).items():
        by_layer[modules[path][0]] += len(units)
    best = tuple(
        Unit(
            ranking.paths[int(ranking.module[n])],
            int(ranking.unit[n]),
            ranking.precision[n].item(),
            int(ranking.sign[n]),
            ranking.margin[n].item(),
        )
        for n in range(min(10, len(ranking.unit)))
    )
    return RelationUnits(
        relation.name,
        exam.completed(relation.name),
        len(exam.completed_in_detection(relation.name)),
        len(exam.evaluation[relation.name]),
        int((ranking.precision >= near).sum()),
        (null >= near).sum(1).double().mean().item(),
        threshold,
        (null >= threshold - 1e-9).sum(1).double().mean().item(),
        best,
        tuple(by_layer),
    )


def _zeroed(
    exam: Examination,
    rankings: Mapping[str, Ranking],
    spikes: Mapping[str, Tensor],
    modules: Mapping[str, tuple[int, int]],
    sizes: Sequence[int],
    base: tuple[Score, ...],
) -> tuple[tuple[Zeroed, ...], dict[tuple[str, int], dict[str, Tensor]]]:
    """Accuracies with each set at 0, and which evaluation prompts stay right, by (set, count)."""
    sets: list[tuple[str, int, dict[str, Tensor]]] = []
    for count in sizes:
        sets += [(name, count, ranking.chosen(0, count)) for name, ranking in rankings.items()]
        for draw in range(1, _DRAWS + 1):
            sets.append((f"random {draw}", count, _drawn(modules, spikes, count, exam.study.seed + draw)))
    rows, right = [], {}
    for done, (name, count, units) in enumerate(sets, 1):
        with units_zeroed(exam.study.model, units):
            right[name, count] = exam.right()
        scores = tuple(exam.score(relation, held) for relation, held in right[name, count].items())
        drops = tuple(
            None if before.value == 0 else (before.value - after.value) / before.value
            for before, after in zip(base, scores, strict=True)
        )
        spiking = sum(int(spikes[path][at].sum()) for path, at in units.items())
        rows.append(Zeroed(name, count, spiking, scores, drops))
        exam.study.progress("zeroing", done, len(sets))
    return tuple(rows), right


def _drawn(
    modules: Mapping[str, tuple[int, int]], spikes: Mapping[str, Tensor], count: int, seed: int
) -> dict[str, Tensor]:
    """`count` units drawn at random from those that do not spike."""
    free = torch.cat([~spikes[path] for path in modules])
    places = torch.cat([torch.full((units,), n) for n, (_, units) in enumerate(modules.values())])
    unit = torch.cat([torch.arange(units) for _, units in modules.values()])
    allowed = free.nonzero()[:, 0]
    drawn = allowed[torch.randperm(len(allowed), generator=torch.Generator().manual_seed(seed))[:count]]
    return {path: unit[drawn][places[drawn] == n] for n, path in enumerate(modules)}


def _cumulativity(
    exam: Examination,
    rankings: Mapping[str, Ranking],
    sizes: Sequence[int],
    right: Mapping[tuple[str, int], dict[str, Tensor]],
) -> tuple[Cumulativity, ...]:
    found = []
    for name, ranking in rankings.items():
        for fewer, more in pairwise(sizes):
            lost = right[name, fewer][name] & ~right[name, more][name]
            total = int(lost.sum())
            value = None
            if total:
                with units_zeroed(exam.study.model, ranking.chosen(fewer, more)):
                    alone = exam.right()[name]
                value = 1 - int((lost & ~alone).sum()) / total
            found.append(Cumulativity(name, fewer, more, total, value))
    return tuple(found)


def _overlaps(rankings: Mapping[str, Ranking], count: int) -> tuple[tuple[str, str, int, int], ...]:
    def members(ranking: Ranking) -> set[tuple[int, int]]:
        return set(zip(ranking.module[:count].tolist(), ranking.unit[:count].tolist(), strict=True))

    names = list(rankings)
    held = {name: members(ranking) for name, ranking in rankings.items()}
    return tuple(
        (one, other, count, len(held[one] & held[other]))
        for at, one in enumerate(names)
        for other in names[at + 1 :]
    )


def _elsewhere(exam: Examination, relation: Relation, ranking: Ranking, count: int) -> Controls:
    model, windows = exam.study.model, exam.study.ids[:_WINDOWS]
    reworded, neutral, prose = (
        exam.reworded(relation),
        exam.neutral(relation),
        loss_per_window(model, windows),
    )
    with units_zeroed(model, ranking.chosen(0, count)):
        reworded_after, neutral_after = exam.reworded(relation), exam.neutral(relation)
        prose_after = loss_per_window(model, windows)
    change = None
    if neutral is not None and neutral_after is not None:
        rise = neutral_after - neutral
        change = Score("loss change", rise.mean().item(), "nats/token", len(rise), mean_error(rise))
    return Controls(relation.name, count, reworded, reworded_after, change, loss_change(prose, prose_after))
