"""A trial: one change of the model, and what it has cost on each window of text so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from superweights.address import Address
from superweights.branch import Branch
from superweights.editing import Edit
from superweights.record import Score
from superweights.subject.objective import NATS


@dataclass(eq=False)
class Trial:
    """What is changed (`branch` makes it for the windows of a pass), and the loss rise on each window, in `unit`.

    Windows are told by their number in the text, so that two trials are compared on those that both have seen. A
    model that gives no number without the weights (nan) has lost everything: its rise is infinite.
    """

    branch: Callable[[Sequence[int]], Branch]
    rises: dict[int, float] = field(default_factory=dict)
    unit: str = NATS

    @classmethod
    def without(cls, addresses: Iterable[Address]) -> Trial:
        """The model with all of `addresses` set to zero."""
        edits = tuple(Edit(address, factor=0.0) for address in addresses)
        return cls(lambda windows: Branch(edits))

    @classmethod
    def mean_of(cls, trials: Sequence[Trial]) -> Trial:
        """What several trials cost on average, window by window, on the windows that all of them have seen."""
        shared = set.intersection(*(set(trial.rises) for trial in trials))
        rises = {window: sum(trial.rises[window] for trial in trials) / len(trials) for window in shared}
        return cls(trials[0].branch, dict(sorted(rises.items())))

    @property
    def seen(self) -> bool:
        return bool(self.rises)

    def note(self, windows: Sequence[int], rises: Tensor, unit: str = NATS) -> None:
        """Take over what a pass over `windows` has measured, `rises [windows]` in `unit`."""
        self.unit = unit
        values = rises.double().nan_to_num(nan=math.inf).tolist()
        self.rises.update(zip(windows, values, strict=True))

    def score(self, name: str) -> Score:
        """The mean rise over its windows, with its standard error."""
        return mean_score(name, list(self.rises.values()), self.unit)

    def beyond(self, other: Trial, name: str) -> Score | None:
        """How much more this costs than `other`, paired by window; None where they share none."""
        shared = [window for window in self.rises if window in other.rises]
        pairs = [(self.rises[window], other.rises[window]) for window in shared]
        # what is infinite on both sides is no difference
        rises = [0.0 if a == b else a - b for a, b in pairs]
        return mean_score(name, rises, self.unit) if shared else None

    def excess(self, control: Trial) -> tuple[float, float] | None:
        """How far this lies above a control, as an interval; None where they share fewer than two windows.

        Of the paired differences; or of the two by themselves where these are apart: where a few windows cost far more
        than the others, so do their differences, and that the control costs nothing is known all the same.
        """
        paired = self.beyond(control, "")
        if paired is None or paired.n < 2:
            return None
        (low, high), (least, most) = self.interval(), control.interval()
        return (low - most, high - least) if low > most else paired.interval()

    def interval(self) -> tuple[float, float]:
        """Between what the true mean rise lies, with 95 % confidence (Student); anywhere for fewer than two windows."""
        return self.score("").interval() if len(self.rises) > 1 else (-math.inf, math.inf)


def mean_score(name: str, values: Sequence[float], unit: str = NATS) -> Score:
    """The mean of one number per window and its standard error; exact where all are infinite."""
    n, mean = len(values), sum(values) / len(values)
    if not math.isfinite(mean):
        return Score(name, mean, unit, n, None)
    error = float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(n) if n > 1 else None
    return Score(name, mean, unit, n, error)
