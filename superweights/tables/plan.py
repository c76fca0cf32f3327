"""What `plan` found."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from superweights.tables.numbers import plain
from superweights.tables.page import Parts, ruled

if TYPE_CHECKING:
    from superweights.findings import Planned
    from superweights.record import Record

_FRONTIER = 12
_RANKED = 10


def parts(record: Record) -> Parts:
    """The grids, the most sensitive matrices, the frontier, and what the plan costs beside one scheme for all."""
    found: Planned = record.findings
    counts = Counter(each.grid for each in found.matrices)
    yield "matrices: " + ", ".join(f"{n} in {grid}" for grid, n in sorted(counts.items()))
    table = ruled("most sensitive, and those with super weights", "KL alone, nats", "grid", "bits")
    ranked = sorted(found.matrices, key=lambda each: (not each.super_weights, -each.measured_kl))
    for each in ranked[:_RANKED]:
        name = plain(each.tensor + (" *" if each.super_weights else ""))
        table.add_row(name, f"{each.measured_kl:z.2g}", each.grid, f"{each.bits_per_weight:z.2f}")
    yield table
    yield "frontier, bits per weight and expected KL:"
    for bits, loss in found.frontier[:: max(1, len(found.frontier) // _FRONTIER)]:
        yield f"  {bits:5.2f}  {loss:z.3g}"
    yield from (f"note: {plain(note)}" for note in found.notes)
    kl, base, other = record.scores[:3]
    yield (
        f"plan: {found.bits_per_weight:z.3f} bits per weight; KL {kl} (expected {found.expected_kl:z.3g}); "
        f"perplexity {base.value:z.4g} before, {other.value:z.4g} after"
    )
    for alone in found.uniform:
        yield (
            f"one scheme for all, {plain(alone.scheme)}: {alone.bits_per_weight:z.3f} bits per weight; "
            f"KL {alone.value:z.4g} ± {alone.standard_error or 0:z.2g} {alone.unit}"
        )
