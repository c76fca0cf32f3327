"""`superweights.drift`: what a fine-tuned checkpoint changed of its base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweights.adaptation.drift import drift as measure
from superweights.address import Address
from superweights.checkpoint import opened_checkpoint
from superweights.findings.adaptation import Drifted
from superweights.index.choice import choose_weights
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject import Source


def drift(
    model: Any,
    against: Any,
    weights: Sequence[Address | str] | Address | str = (),
    *,
    record: Record | Any = None,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Drifted`: how far each tensor of `model` is from that of `against`, the weights that moved
    most for their tensor, and `weights` before and after. No model runs.

    The weights are those named, else those of a `record` that `find` wrote of the base, else the base's known ones.
    """
    with opened_checkpoint(Source.of(model)) as tuned, opened_checkpoint(Source.of(against)) as base:
        addresses = choose_weights(base, weights, record).addresses
        found = measure(tuned, base, addresses, progress=progress)
        told = Drifted(base.name, found.to_json())
        return Record.of("drift", tuned, findings=told, against=base.fingerprint())
