"""What becomes of the sink when the super weights are gone, and which heads do nothing: interventions."""

from __future__ import annotations

from dataclasses import dataclass

from superweights.address import Address
from superweights.editing import edited, zero
from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.interventions import (
    DRAWS,
    Outcome,
    Trials,
    random_weights,
    sheet_of,
    silenced,
    tapped,
)
from superweights.interpretability.sinks.answer import Sinks
from superweights.interpretability.sinks.question import SinkReduction
from superweights.interpretability.study import Study
from superweights.picture import Panel, Series, line_chart
from superweights.progress import labelled
from superweights.record import Score

_SHARE_OF_HEADS = 0.1
_MOST = 6


@dataclass(frozen=True)
class SinksWithout:
    """The sinks of the model as it is, and after each change: one super weight removed, all, random others.

    `removals` and `sinks` go together; `heads` are outcomes of silencing a tenth of all heads, chosen by two
    scores and at random.
    """

    before: Sinks
    """Of the model as it is."""
    removals: tuple[Outcome, ...]
    sinks: tuple[Sinks, ...]
    heads: tuple[Outcome, ...]

    def scores(self) -> tuple[Score, ...]:
        return self.before.scores()

    def sheets(self) -> tuple[Sheet, ...]:
        return (
            *self.before.sheets(),
            sheet_of("The sink, and what is lost", self.removals, "a control is the mean of random draws"),
            sheet_of(
                f"A tenth of all heads silenced ({round(_SHARE_OF_HEADS * len(self.before.quietest or ()))})",
                self.heads,
            ),
        )

    def panels(self) -> tuple[Panel, ...]:
        names = [f"{'control: ' if outcome.control else ''}{outcome.name}" for outcome in self.removals]
        lines = [
            Series(name, tuple(zip(sinks.layers, sinks.sink_rate, strict=True)), dashed=outcome.control)
            for name, sinks, outcome in zip(names, self.sinks, self.removals, strict=True)
        ]
        return (
            line_chart("Heads that sink on token 0", "layer", "share of heads", lines[:7]),
            *self.before.panels(),
        )


def investigate(study: Study) -> SinksWithout:
    """The sinks before and after the study's super weights are set to zero: each alone, all together, and as
    many random weights of the same tensors.

    Raises `SuperweightsError` without weights to remove.
    """
    if not study.weights:
        raise SuperweightsError(
            "No super weight of this model is known, so none can be removed.",
            hint="name some with --weights 'TENSOR[i, j]', or give a record of superweights find with --from.",
        )
    bench = Trials(study.model, study.ids, study.batch_size, labelled(study.progress, "losses"))
    sets: list[tuple[str, list[tuple[Address, ...]], bool]] = [("as it is", [()], False)]
    if len(study.weights) > 1:
        sets += [(f"without {weight}", [(weight,)], False) for weight in study.weights[:_MOST]]
    sets.append((f"without {_count(study)}", [study.weights], False))
    draws = [random_weights(study.model, study.weights, study.seed + n) for n in range(DRAWS)]
    sets.append((f"without {len(study.weights)} random weights of the same tensors", draws, True))
    removals, sinks = [], []
    for name, addresses, control in sets:
        with edited(study.model, zero(addresses[0]), verify=False):
            found = study.ask(SinkReduction())[0]
        changes = [lambda each=each: edited(study.model, zero(each), verify=False) for each in addresses]
        removals.append(bench.outcome(name, *changes, control=control, **_numbers(found)))
        sinks.append(found)
    return SinksWithout(sinks[0], tuple(removals), tuple(sinks), tuple(_silence(study, bench, sinks[0])))


def _silence(study: Study, bench: Trials, sinks: Sinks) -> list[Outcome]:
    """A tenth of the heads set to zero: the quietest by AHON(LN), the most sunk by AWFT, and random ones."""
    import random

    if not sinks.quietest:
        return []
    count = max(1, round(_SHARE_OF_HEADS * len(sinks.quietest)))
    masses = [
        (mass, layer, head)
        for layer, row in zip(sinks.layers, sinks.head_mass, strict=True)
        for head, mass in enumerate(row)
    ]
    every = [(layer, head) for _, layer, head in masses]
    quiet = [(head.layer, head.head) for head in sinks.quietest[:count]]
    sunk = [(layer, head) for _, layer, head in sorted(masses, reverse=True)[:count]]
    drawn = [random.Random(study.seed + n).sample(every, count) for n in range(DRAWS)]
    return [
        bench.outcome("the quietest, AHON(LN)", tapped(study.model, silenced(quiet))),
        bench.outcome("most weight on token 0, AWFT", tapped(study.model, silenced(sunk))),
        bench.outcome(
            "random heads", *(tapped(study.model, silenced(heads)) for heads in drawn), control=True
        ),
    ]


def _numbers(sinks: Sinks) -> dict[str, float]:
    def mean(values: tuple[float, ...] | None) -> float:
        return sum(values) / len(values) if values else float("nan")

    return {
        "heads that sink": mean(sinks.sink_rate),
        "largest weight there": mean(sinks.argmax_share),
        "weight there": mean(sinks.mass),
        "on itself": mean(sinks.own),
        "value norm": mean(sinks.drain),
        "sink elsewhere": sinks.other_rate,
    }


def _count(study: Study) -> str:
    return "it" if len(study.weights) == 1 else f"all {len(study.weights)}"
