"""What `quantize` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superweights.tables.numbers import plain
from superweights.tables.page import Parts

if TYPE_CHECKING:
    from superweights.findings import Quantized
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """Where it is, its schemes and scores, and what was kept exactly."""
    found: Quantized = record.findings
    yield f"[bold]{plain(found.to)}[/]: {found.format}"
    yield from (f"  {plain(scheme)}" for scheme in found.schemes)
    yield from (f"  {score.name}: {score}" for score in record.scores)
    yield f"  matrices rounded: {found.tensors_rounded}"
    if found.calibrated_on is not None:
        yield f"  rounded for {plain(found.calibrated_on)}"
    for each in found.protected:
        name = each.address.split("[")[0]
        yield f"  {plain(name + each.said)}"
    if not found.protected:
        yield "  Nothing is protected: no weight was kept exactly."
