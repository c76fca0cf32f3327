"""What `quantize` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superweights.tables.numbers import plain, with_error
from superweights.tables.page import Parts
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.findings import Quantized
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """Where it is and how large, how far from the original, its schemes, and what was kept exactly."""
    found: Quantized = record.findings
    yield f"[bold]{plain(found.to)}[/]: {found.format}, {_size(record)}"
    if found.kl is not None:
        besides = "" if found.kl_plain is None else f"; {with_error(found.kl_plain)} with nothing kept"
        yield f"KL from the original {with_error(found.kl)} nats/token ({counted(found.kl.n, 'window')}){besides}."
    for scheme in found.schemes:
        yield f"  {plain(scheme)}"
    yield f"  matrices rounded: {found.tensors_rounded}"
    if found.calibrated_on is not None:
        yield f"  rounded for {plain(found.calibrated_on)}"
    if found.embeddings:
        yield f"  embeddings and head: {plain(found.embeddings)}"
    for name in found.kept_whole:
        yield f"  {plain(name)} is not rounded: this format keeps no single weight beside a matrix"
    for each in found.protected:
        yield f"  {plain(each.address.split('[')[0] + each.said)}"
    if not found.protected:
        yield "  Nothing is protected: no weight was kept exactly."
    yield from (f"note: {plain(note)}" for note in found.notes)


def _size(record: Record) -> str:
    """Bytes and bits per weight, now and before."""
    of = {score.name: score.value for score in record.scores}
    bits = of["bits per weight, all tensors"]
    said = f"{of['size of the weight files']:z.4g} MB, {bits:z.3g} bits per weight"
    if "size before" in of:
        said += f" (before: {of['size before']:z.4g} MB, {of['bits per weight before']:z.3g} bits)"
    return said
