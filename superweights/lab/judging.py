"""Who prevented what. The rules stand before the runs, and nothing but numbers goes in.

1. The control has to show the phenomenon in every seed, or the verdict is *inconclusive*: a thing that did not arise
   was not prevented. Sink: its largest weight is on token 0 at least twice as often as chance has it. Outliers: the
   kurtosis of token 0 over its channels is at least twice what it was before the first step.
2. *Prevented*: in every seed the arm is below its control of the same seed **and** no longer shows the phenomenon, by
   the very bar that the control passed. *Not prevented*: anything else. Seeds decide by agreement, not by a t-test;
   fewer than three decide nothing.
3. Equal tokens, and equal parameters within one in a hundred: an arm that adds more is held against the control that
   adds as many, and is *inconclusive* where there is none.
4. An arm with another optimizer takes part at the best of its learning rates (loss of the first seed), and so does the
   control it is held against; the whole row is kept.
5. Outliers must be gone in the basis that the optimizer works in as well: there they would only be hidden.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from superweights.lab.profile import Profile
from superweights.lab.result import Result
from superweights.lab.suites import CONTROL, Phenomenon, Suite

Word = Literal["prevented", "not prevented", "inconclusive"]
SEEDS = 3
TIMES = 2.0  # of chance, or of the start
ALIKE = 0.01  # of the parameters

PHENOMENA: tuple[Phenomenon, ...] = ("sink", "outliers")


@dataclass(frozen=True)
class Spread:
    """A number over seeds: mean, smallest and largest; `n` seeds have it."""

    mean: float
    low: float
    """The smallest."""
    high: float
    """The largest."""
    n: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """None where no seed has a finite one."""
        known = [value for value in values if value is not None and math.isfinite(value)]
        return cls(statistics.fmean(known), min(known), max(known), len(known)) if known else None


@dataclass(frozen=True)
class Verdict:
    """What is said of one arm and one phenomenon: the word, why, and against which control.

    `arm` and `control` are the measure in each seed, `lower` in how many seeds the arm's is smaller; `loss` is by how
    many nats per token the arm's loss is above its control's.
    """

    name: str
    """The arm's."""
    phenomenon: Phenomenon
    word: Word
    why: str
    against: str
    measure: tuple[float | None, ...] = ()
    control: tuple[float | None, ...] = ()
    lower: int = 0
    loss: Spread | None = None


@dataclass(frozen=True)
class Rate:
    """One learning rate of an arm's row, with the first seed: what it gave. `status` is `done`, `diverged`, or `open`
    where it has not been run; numbers are None but where it is done."""

    rate: float
    status: str
    loss: float | None
    """Nats per token."""
    argmax_share: float | None
    """Of (head, query) pairs that look at token 0 most."""
    kurtosis: float | None
    """Over the channels of token 0."""
    best: bool
    """Whether the arm is judged at it."""


@dataclass(frozen=True)
class Judged:
    """A suite's results, judged: for each arm its runs at the best learning rate by seed, its row, its verdicts."""

    runs: Mapping[str, Mapping[int, Result]]
    rows: Mapping[str, tuple[Rate, ...]]
    """By arm: its learning rates."""
    verdicts: tuple[Verdict, ...]

    def verdict(self, name: str, phenomenon: Phenomenon) -> Verdict:
        """The verdict on one arm."""
        return next(v for v in self.verdicts if (v.name, v.phenomenon) == (name, phenomenon))


# Results of a suite: by arm, learning rate, seed.
Results = Mapping[tuple[str, float, int], Result]


def best_rate(suite: Suite, results: Results, name: str) -> float:
    """The learning rate whose loss is smallest with the first seed; the recipe's own where none has ended well."""
    rates = suite.rates_of(name)
    losses = {rate: _loss(results.get((name, rate, suite.seeds[0]))) for rate in rates}
    known = {rate: loss for rate, loss in losses.items() if loss is not None}
    return min(known, key=lambda rate: known[rate]) if known else rates[0]


def judge(suite: Suite, results: Results) -> Judged:
    """Every arm's verdicts. Pure: the same results give the same words."""
    own = {name: suite.recipe(name).optimizer.learning_rate for name in suite.names}
    best = {name: best_rate(suite, results, name) for name in suite.names}
    runs = {name: _seeds(suite, results, name, best[name]) for name in suite.names}
    control = _seeds(suite, results, CONTROL, own[CONTROL])
    verdicts = []
    for name in suite.names[1:]:
        row = len(suite.rates_of(name)) > 1
        against = (CONTROL, runs[CONTROL] if row else control)
        matched = {
            arm.name: runs[arm.name] for arm in suite.arms if arm.matched and arm.name != name and runs[arm.name]
        }  # fmt: skip
        verdicts += [judge_arm(name, each, runs[name], against, matched) for each in PHENOMENA]
    rows = {
        name: _row(suite, results, name, best[name]) for name in suite.names if len(suite.rates_of(name)) > 1
    }
    return Judged({**runs, CONTROL: control}, rows, tuple(verdicts))


def judge_arm(
    name: str,
    phenomenon: Phenomenon,
    runs: Mapping[int, Result],
    control: tuple[str, Mapping[int, Result]],
    matched: Mapping[str, Mapping[int, Result]] | None = None,
) -> Verdict:
    """The verdict on one arm, from its runs by seed and its control's; `matched` are controls with more parameters."""

    def said(word: Word, why: str, against: str = control[0], **more) -> Verdict:
        return Verdict(name, phenomenon, word, why, against, **more)

    bad = next((run for run in runs.values() if run.status != "done"), None)
    if bad is not None:
        return said("inconclusive", f"seed {bad.recipe.seed} diverged at step {bad.step}")
    against, held = _equal(runs, control, matched or {})
    seeds = sorted(seed for seed in runs if seed in held and held[seed].status == "done")
    if len(seeds) < SEEDS:
        return said("inconclusive", f"{len(seeds)} of {SEEDS} seeds", against or control[0])
    if against is None:
        more = _parameters(runs) / _parameters(control[1]) - 1
        return said("inconclusive", f"{more:+.1%} parameters, and no control with as many")
    if {run.tokens for run in runs.values()} != {held[seed].tokens for seed in seeds}:
        return said("inconclusive", "it read another number of tokens", against)
    pairs = [(runs[seed], held[seed]) for seed in seeds]
    return _by_seeds(said, phenomenon, pairs, against)


def _by_seeds(
    said: Callable[..., Verdict], phenomenon: Phenomenon, pairs: Sequence[tuple[Result, Result]], against: str
) -> Verdict:
    """Rules 1, 2 and 5."""
    mine, theirs = zip(*((_measure(a, phenomenon), _measure(c, phenomenon)) for a, c in pairs), strict=True)
    rise = Spread.of([_less(_loss(a), _loss(c)) for a, c in pairs])
    lower = sum(a is not None and c is not None and a < c for a, c in zip(mine, theirs, strict=True))
    facts = {"against": against, "measure": mine, "control": theirs, "lower": lower, "loss": rise}
    there = sum(_shows(c, phenomenon) for _, c in pairs)
    if there < len(pairs):
        return said("inconclusive", f"the control shows it in {there} of {len(pairs)} seeds", **facts)
    left = sum(_shows(a, phenomenon) for a, _ in pairs)
    if lower < len(pairs):
        return said("not prevented", f"lower in {lower} of {len(pairs)} seeds", **facts)
    if left:
        return said("not prevented", f"lower, and still there in {left} of {len(pairs)} seeds", **facts)
    hidden = sum(_hidden(a) for a, _ in pairs) if phenomenon == "outliers" else 0
    if hidden:
        return said("not prevented", "gone in this basis, there in the optimizer's own", **facts)
    return said("prevented", "below the bar in every seed", **facts)


def bar(result: Result, phenomenon: Phenomenon) -> float:
    """From where on a run shows the phenomenon."""
    assert result.start is not None
    assert result.end is not None
    start = result.start.kurtosis_channel_first
    return TIMES * (result.end.uniform_mass if phenomenon == "sink" else start)


def _measure(result: Result, phenomenon: Phenomenon) -> float | None:
    """What the verdict is about; None where the model hides it. A head that looks nowhere sinks nowhere."""
    end = result.end
    assert end is not None
    if phenomenon == "outliers":
        return end.kurtosis_channel_first
    return 0.0 if end.argmax_share is None and end.nowhere == 1 else end.argmax_share


def _shows(result: Result, phenomenon: Phenomenon) -> bool:
    value = _measure(result, phenomenon)
    return value is not None and value >= bar(result, phenomenon)


def _hidden(result: Result) -> bool:
    """Whether outliers stand in the optimizer's own basis."""
    own = result.end.rotated_first.get("own") if result.end else None
    return own is not None and own >= bar(result, "outliers")


def _equal(
    runs: Mapping[int, Result],
    control: tuple[str, Mapping[int, Result]],
    matched: Mapping[str, Mapping[int, Result]],
) -> tuple[str | None, Mapping[int, Result]]:
    """The control with as many parameters: the plain one, or one that only adds them; none: (None, the plain one)."""
    if not runs or not control[1]:
        return control
    mine = _parameters(runs)
    for name, held in (control, *matched.items()):
        if abs(mine / _parameters(held) - 1) <= ALIKE:
            return name, held
    return None, control[1]


def _parameters(runs: Mapping[int, Result]) -> int:
    profile: Profile | None = next(iter(runs.values())).start
    assert profile is not None
    return profile.parameters


def _seeds(suite: Suite, results: Results, name: str, rate: float) -> dict[int, Result]:
    found = {seed: results.get((name, rate, seed)) for seed in suite.seeds}
    return {seed: result for seed, result in found.items() if result is not None}


def _row(suite: Suite, results: Results, name: str, best: float) -> tuple[Rate, ...]:
    found = []
    for rate in sorted(suite.rates_of(name)):
        result = results.get((name, rate, suite.seeds[0]))
        end = result.end if result is not None else None
        status = "open" if result is None else result.status
        share, kurtosis = (end.argmax_share, end.kurtosis_channel_first) if end else (None, None)
        found.append(Rate(rate, status, _loss(result), share, kurtosis, rate == best and end is not None))
    return tuple(found)


def _loss(result: Result | None) -> float | None:
    return result.end.loss if result is not None and result.end is not None else None


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
