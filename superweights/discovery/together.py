"""Weights that matter only together: from a set whose removal is critical to the smallest part of it that still is.

The unit of criticality is what one neuron writes, not one weight: three weights of a column may be harmless alone
and in pairs, and ruin the model together (reported for Llama-3.1-8B-Instruct, layer 1, column 2427). So every
spiking column is tried as a whole. Where that is critical and none of its weights is, the columns's weights are
added back: first the smallest critical set in the order of their products (leave-one-in), then each of it is put
back alone (leave-one-out), as long as what remains is critical.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from superweights.address import Address
from superweights.discovery.proof import Bars
from superweights.discovery.trials import Trial

Units = tuple[tuple[Address, ...], ...]


@dataclass(eq=False)
class Together:
    """A set of weights on its way to the smallest critical one.

    `units` are taken out as wholes (a weight, or all weights of a column), the strongest first; `kind` is `column`
    or `layers`. `trial` is the model without all of them.
    """

    kind: str
    units: Units
    trial: Trial
    _fewer: dict[int, Trial] = field(default_factory=dict)  # without the first n units
    _without: dict[Units, Trial] = field(default_factory=dict)  # without all units but one
    _prefixes_done: bool = False
    smallest: bool = False

    @property
    def members(self) -> tuple[Address, ...]:
        return tuple(dict.fromkeys(address for unit in self.units for address in unit))

    def is_critical(self, bars: Bars) -> bool:
        return self.trial.interval()[0] >= bars.critical

    def proceed(self, alone: Mapping[Address, Trial], bars: Bars) -> list[Trial]:
        """The trials that the search for the smallest set needs next; empty when it has ended, or cannot begin."""
        if not self.is_critical(bars) or self.smallest:
            return []
        if not self._prefixes_done:
            needed = self._shorten(bars)
            if needed:
                return needed
        return self._put_back(alone, bars)

    def adds(self, member: Address, alone: Mapping[Address, Trial]) -> Trial | None:
        """The model without the rest of the set: what `member` adds is the difference to `trial`."""
        return self._rest_trial(self._rest(member), alone)

    def _shorten(self, bars: Bars) -> list[Trial]:
        """Leave-one-in, in the order of strength: keep the shortest row of units that is critical."""
        if not self._fewer:
            for count in range(2, len(self.units)):
                self._fewer[count] = Trial.without(_flat(self.units[:count]))
            if self._fewer:
                return list(self._fewer.values())
        if any(not trial.seen for trial in self._fewer.values()):
            return [trial for trial in self._fewer.values() if not trial.seen]
        for count, trial in self._fewer.items():
            if trial.interval()[0] >= bars.critical:
                self.units, self.trial = self.units[:count], trial
                break
        self._prefixes_done = True
        return []

    def _put_back(self, alone: Mapping[Address, Trial], bars: Bars) -> list[Trial]:
        """Leave-one-out: while the set without one unit is critical, that is the set."""
        rests = [tuple(u for u in self.units if u is not unit) for unit in self.units]
        trials = [self._rest_trial(rest, alone) or self._plan(rest) for rest in rests]
        missing = [trial for trial in trials if not trial.seen]
        if missing:
            return missing
        critical = [n for n, trial in enumerate(trials) if trial.interval()[0] >= bars.critical]
        if critical:
            best = max(critical, key=lambda n: trials[n].interval()[0])
            self.units, self.trial = rests[best], trials[best]
            return self._put_back(alone, bars) if len(self.units) > 1 else []
        if any(len(unit) > 1 for unit in self.units):
            self.units = tuple((address,) for address in self.members)
            return self._put_back(alone, bars)
        self.smallest = True
        return []

    def _rest(self, member: Address) -> Units:
        return tuple(unit for unit in self.units if member not in unit)

    def _rest_trial(self, rest: Units, alone: Mapping[Address, Trial]) -> Trial | None:
        if len(rest) == 1 and len(rest[0]) == 1:
            return alone.get(rest[0][0])
        return self._without.get(rest)

    def _plan(self, rest: Units) -> Trial:
        return self._without.setdefault(rest, Trial.without(_flat(rest)))


def _flat(units: Units) -> list[Address]:
    return list(dict.fromkeys(address for unit in units for address in unit))
