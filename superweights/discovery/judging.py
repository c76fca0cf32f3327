"""Sequential judging: every candidate on a few windows, and more windows only where the verdict is not clear yet.

A pass takes along the trials that are open, on windows that none has seen; the next pass takes twice as many. What
matters is compared with controls, held at its mean, and searched for company: columns and layers that matter
together, weights that back another up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from superweights.address import Address
from superweights.branch import Branch
from superweights.discovery.candidates import Candidate
from superweights.discovery.comparisons import Comparison, Comparisons
from superweights.discovery.experts import ExpertSeen, masked
from superweights.discovery.hunt import Hunt
from superweights.discovery.proof import Bars, is_open
from superweights.discovery.protocol import blocks_of, cut_to
from superweights.discovery.replacing import held_at_mean
from superweights.discovery.together import Together, Units
from superweights.discovery.trials import Trial
from superweights.record import LARGEST
from superweights.subject import Batch

# So many columns are removed two by two, so many all at once, and so many are tried beside the strongest weight.
_PAIRED, _AT_ONCE, _BESIDE = 3, 6, 3
# So many other experts are masked, each by itself, to compare a suspected one with.
_OTHER_EXPERTS = 3
# After so many windows it is left at that what a weight adds beside another was not decided.
_ENOUGH = 8


@dataclass(eq=False)
class Backup:
    """The model without the strongest weight and another: what the other adds when that one is gone."""

    strongest: Candidate
    other: Candidate
    trial: Trial


class Judging:
    """The judging of what a hunt has found, on windows, the rows of `batch`."""

    def __init__(self, hunt: Hunt, batch: Batch, bars: Bars | None = None):
        self.hunt, self.search, self.batch = hunt, hunt.search, batch
        self.bars = bars or hunt.search.bars
        self.comparisons = Comparisons(hunt.checkpoint, hunt.search.controls, hunt.search.seed)
        self.together: dict[tuple, Together] = {}
        self.backups: list[Backup] = []
        self.means: dict[Address, Trial] = {}
        self.experts: list[ExpertSeen] = []
        self.all: Trial | None = None
        self.removed: tuple[Address, ...] = ()
        self.interrupted = False
        self.fits = True  # the text fits the model, so that a loss on it says something
        self._looked_again = 0

    def run(self) -> None:
        """Make passes until all is decided, or the budget or the text ends. Ctrl-C ends it with what is decided."""
        if self.hunt.experts is not None:
            forming = {layer.path for layer in self.hunt.layers if layer.phase == "step_up"}
            peaks = {layer.path: layer.peak for layer in self.hunt.layers}
            self.experts = self.hunt.experts.suspects(peaks, forming)
        try:
            for windows in blocks_of(len(self.batch), self.search):
                strongest = self._strongest()
                trials = [t for t in dict.fromkeys(self._plan()) if not set(windows) <= t.rises.keys()]
                if not trials and strongest is None:
                    return
                self.hunt.ride(cut_to(self.batch, windows), windows, trials, strongest)
        except KeyboardInterrupt:
            self.interrupted = True

    # --- what is known so far -------------------------------------------------------------------------------

    @property
    def alone(self) -> Mapping[Address, Trial]:
        return {address: c.trial for address, c in self.hunt.candidates.items()}

    def suspects(self) -> list[Candidate]:
        """The candidates that have shown an effect alone, the strongest first."""
        low = {c: c.trial.interval()[0] for c in self.hunt.candidates.values()}
        return sorted((c for c in low if low[c] >= self.bars.partial), key=lambda c: -low[c])

    def is_critical(self, address: Address) -> bool:
        """Whether the weight is critical by itself."""
        candidate = self.hunt.candidates.get(address)
        return candidate is not None and candidate.trial.interval()[0] >= self.bars.critical

    def controls_of(self, c: Candidate) -> list[Comparison]:
        """The controls of a weight: made when it becomes a suspect."""
        self.comparisons.avoid |= set(self.hunt.candidates)
        place = c.spike.out_channel, c.spike.in_neuron
        return self.comparisons.of_weight(c.address, place, all_kinds=self.is_critical(c.address))

    def controls_of_group(self, group: Together) -> list[Comparison]:
        """The control of a group: as many other weights of the column of its first member."""
        self.comparisons.avoid |= {*self.hunt.candidates, *group.members}
        first = group.members[0]
        spike = (
            next((c.writers[first] for c in self.hunt.columns.values() if first in c.writers), None)
            or self.hunt.candidates[first].spike
        )
        return self.comparisons.of_group(first, (spike.out_channel, spike.in_neuron), len(group.members))

    def groups(self) -> list[Together]:
        """The sets that are critical together while none of their weights is alone, each found once."""
        found: dict[frozenset[Address], Together] = {}
        if not self.fits:
            return []
        for group in self.together.values():
            many = len(group.members) > 1 and not any(map(self.is_critical, group.members))
            if many and group.is_critical(self.bars):
                found.setdefault(frozenset(group.members), group)
        small = [key for key in found if not any(other < key for other in found)]
        settled = any(found[key].smallest for key in small) or any(
            map(self.is_critical, self.hunt.candidates)
        )
        # a set of many columns that was not made smaller says little, unless it is all there is
        return [
            found[key] for key in small if found[key].smallest or found[key].kind == "column" or not settled
        ]

    # --- what the next pass takes along ---------------------------------------------------------------------

    def _plan(self) -> Iterator[Trial]:
        seen = self.hunt.base.seen
        for candidate in self.hunt.candidates.values():
            if not candidate.trial.seen or is_open(candidate.trial.interval(), self.bars):
                yield candidate.trial
        for column in self.hunt.columns.values():
            if not column.trial.seen or _straddles(column.trial, self.bars.critical):
                yield column.trial
        yield from self._masked_experts()
        if not seen:
            return
        for candidate in self._likely():
            yield from self._compared(candidate.trial, self.controls_of(candidate))
        for candidate in self.suspects():
            yield from self._held(candidate)
        yield from self._joined()
        yield from self._backed_up()

    def _likely(self) -> list[Candidate]:
        """The candidates that are suspects, or may become so: controls cost least on the first windows."""
        seen = [
            c
            for c in self.hunt.candidates.values()
            if c.trial.seen and c.trial.interval()[1] >= self.bars.partial
        ]
        return [c for c in seen if c.trial.score("").value >= self.bars.partial]

    def _compared(self, trial: Trial, controls: Sequence[Comparison]) -> Iterator[Trial]:
        """A trial and its controls, where these are new or the difference is not clear."""
        for control in controls:
            excess = trial.excess(control.trial)
            if excess is None or (control.kind != LARGEST and _straddles_score(excess, 0.0)):
                yield trial
                yield control.trial

    def _held(self, c: Candidate) -> Iterator[Trial]:
        """The weight held at its mean, once, where its rows are the tokens in their order."""
        if c.spike.kind == "weight" and c.spike.row is not None and len(self.batch) > 1:
            trial = self.means.setdefault(c.address, held_at_mean(self.hunt.model, c.edit, c.spike))
            if not trial.seen:
                yield trial

    def _masked_experts(self) -> Iterator[Trial]:
        for expert in self.experts:
            if expert.as_was is None:
                model = self.hunt.model
                expert.as_was = masked(model, expert, expert.expert, renormalise=False)
                expert.renormalised = masked(model, expert, expert.expert, renormalise=True)
                expert.others = [
                    masked(model, expert, other, renormalise=False) for other in self._others(expert)
                ]
            trials = [t for t in (expert.as_was, expert.renormalised, *expert.others) if t is not None]
            control = expert.control
            excess = trials[0].excess(control) if trials[0].seen and control is not None else None
            missing = not trials[0].seen or (expert.others and excess is None)
            unclear = excess is not None and _straddles_score(excess, 0.0)
            if missing or is_open(trials[0].interval(), self.bars) or unclear:
                yield from trials

    def _others(self, expert: ExpertSeen) -> list[int]:
        """A few experts of the layer that are not under suspicion and were sent tokens, the controls; drawn by the
        seed, since the busiest is no fair one: where there are few experts it matters by itself."""
        reader = self.hunt.experts
        assert reader is not None, "an expert was seen"
        suspected = {e.expert for e in self.experts if e.module == expert.module}
        others = [e for e in reader.seen.values() if e.module == expert.module and e.expert not in suspected]
        others = [e for e in others if e.tokens] or others
        drawn = Random(self.search.seed).sample(others, min(_OTHER_EXPERTS, len(others)))
        return [e.expert for e in drawn] or [(expert.expert + 1) % expert.of]

    def _joined(self) -> Iterator[Trial]:
        """Sets that may matter together: columns that do as wholes, columns two by two, the strongest at once."""
        for column in self.hunt.columns.values():
            if column.trial.interval()[0] >= self.bars.critical and not any(
                map(self.is_critical, column.writers)
            ):
                units = tuple((address,) for address in column.writers)
                self.together.setdefault(("column", column.name), Together("column", units, column.trial))
        units = self._units(leave_out_critical=True)
        sets: list[Units] = [*combinations(units[:_PAIRED], 2)]
        if len(units) > 2:
            sets.append(units[:_AT_ONCE])
        if not self._planned_sets():
            for each in sets:
                members = list(dict.fromkeys(address for unit in each for address in unit))
                self.together[("layers", each)] = Together("layers", each, Trial.without(members))
        for group in self.together.values():
            if not group.trial.seen:
                yield group.trial
            missing = [a for a in group.members if a not in self.hunt.candidates]
            if group.is_critical(self.bars) and missing:
                yield from self._suspected(missing)
            needed = group.proceed(self.alone, self.bars)
            if (
                needed
            ):  # on windows that the set itself sees too, so that what each adds is a paired difference
                yield from (group.trial, *needed)
            if group.is_critical(self.bars):
                yield from self._compared(group.trial, self.controls_of_group(group))

    def _planned_sets(self) -> bool:
        return any(kind == "layers" for kind, _ in self.together)

    def _suspected(self, addresses: Sequence[Address]) -> Iterator[Trial]:
        """Weights of a column that were not candidates themselves become so when the column matters."""
        for column in self.hunt.columns.values():
            for address, spike in column.writers.items():
                if address in addresses and address not in self.hunt.candidates:
                    trial = Trial.without([address])
                    self.hunt.candidates[address] = Candidate(
                        address, spike, column.layer, "writes", None, None, column.round, trial
                    )
                    yield trial

    def _units(self, leave_out_critical: bool) -> Units:
        """What is taken out as a whole: the writers of the residual stream, by column, the largest spike first."""
        units: dict[tuple[Address, ...], float] = {}
        columns = {address: tuple(c.writers) for c in self.hunt.columns.values() for address in c.writers}
        for c in self.hunt.candidates.values():
            unit = columns.get(c.address, (c.address,))
            if c.role == "writes" and not (leave_out_critical and any(map(self.is_critical, unit))):
                units[unit] = max(units.get(unit, 0.0), abs(c.spike.spike_out))
        return tuple(sorted(units, key=lambda unit: -units[unit]))

    def _strongest(self) -> Trial | None:
        """The model without the strongest, to be searched again: those that have shown an effect, then the writers of
        the largest spikes, by column. None where they were removed before, or there are none."""
        if not self.hunt.base.seen or self._looked_again >= self.search.rounds:
            return None
        units = [
            *((c.address,) for c in self.suspects()),
            *(tuple(g.members) for g in self.groups()),
            *self._units(leave_out_critical=False),
        ]
        members = tuple(dict.fromkeys(a for unit in dict.fromkeys(units[:_AT_ONCE]) for a in unit))
        if not members:
            return None
        self._looked_again += 1
        self.all, self.removed = Trial.without(members), members
        return self.all

    def _backed_up(self) -> Iterator[Trial]:
        """The strongest weight beside others: the largest writers, and what came to light without the strongest."""
        suspects = self.suspects()
        if suspects:
            strongest = suspects[0]
            paired = {b.other for b in self.backups}
            writers = [c for c in self.hunt.candidates.values() if c.role == "writes" and c is not strongest]
            writers.sort(key=lambda c: (not c.masked, -abs(c.spike.spike_out)))
            for other in writers[:_BESIDE]:
                if other not in paired and len(self.backups) < 2 * _BESIDE:
                    edits = (strongest.edit, other.edit)
                    trial = Trial(lambda windows, edits=edits: Branch(edits))
                    self.backups.append(Backup(strongest, other, trial))
        for backup in self.backups:
            beside = backup.trial.beyond(backup.strongest.trial, "")
            if beside is None or (
                beside.n < _ENOUGH and _straddles_score(beside.interval(), self.bars.critical)
            ):
                yield backup.trial
                yield backup.strongest.trial


def _straddles(trial: Trial, bar: float) -> bool:
    return _straddles_score(trial.interval(), bar)


def _straddles_score(interval: tuple[float, float], bar: float) -> bool:
    return interval[0] < bar <= interval[1]
