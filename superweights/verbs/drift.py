"""`superweights.drift`: what a fine-tuned checkpoint changed of its base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweights.adaptation.drift import drift as measure
from superweights.address import Address
from superweights.checkpoint import opened_checkpoint
from superweights.findings.adaptation import Drifted
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject import Source


def drift(
    model: Any,
    against: Any,
    weights: Sequence[Address | str] | Address | str = (),
    *,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Drifted`: how far each tensor of `model` is from that of `against`, the weights that moved
    most for their tensor, and `weights` before and after. No model runs.
    """
    addresses = Address.several(weights)
    with opened_checkpoint(Source.of(model)) as tuned, opened_checkpoint(Source.of(against)) as base:
        found = measure(tuned, base, addresses, progress=progress)
        told = Drifted(base.name, found.to_json())
        return Record.of("drift", tuned, findings=told, against=base.fingerprint())
