"""Which weights a command is about when none is named: those of a record, or the known ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights.address import Address
    from superweights.checkpoint import Checkpoint


def weights_of(checkpoint: Checkpoint, record: Path | None) -> list[Address]:
    """The super weights of `checkpoint`: of a record that `superweights find --out` wrote, or known by its numbers.

    Those that matter, alone or with others. Raises `SuperweightsError` when there are none, and when the record
    is about another checkpoint.
    """
    found = _known(checkpoint) if record is None else _recorded(checkpoint, record)
    if not found:
        raise SuperweightsError(
            f"No super weight of {checkpoint.name} is {'known' if record is None else f'in {record}'}.",
            hint="name some with --weights 'TENSOR[i, j]', or search with superweights find MODEL --out FILE "
            "and give --from FILE.",
        )
    return found


def chosen_weights(checkpoint: Checkpoint, named: list[str] | None, record: Path | None) -> list[Address]:
    """The weights that are named, else those of `weights_of`."""
    from superweights.address import Address

    return [Address.parse(each) for each in named or ()] or weights_of(checkpoint, record)


def weights_if_any(checkpoint: Checkpoint, named: list[str] | None, record: Path | None) -> list[Address]:
    """As `chosen_weights`; none where none is named or recorded, and none is known."""
    try:
        return chosen_weights(checkpoint, named, record)
    except SuperweightsError:
        if named or record is not None:
            raise
        return []


def _known(checkpoint: Checkpoint) -> list[Address]:
    from superweights.index import look_up
    from superweights.record import MATTERS

    matches = [match for match in look_up(checkpoint) if match.address is not None]
    sure = [match for match in matches if match.agreeing]
    # Where nobody has measured what a known weight costs, all of them are worth a look.
    judged = [match for match in sure if match.known.verdict in MATTERS]
    unjudged = [match for match in sure if match.known.verdict == "unknown"]
    return [match.address for match in judged or unjudged if match.address is not None]


def _recorded(checkpoint: Checkpoint, path: Path) -> list[Address]:
    from superweights import record as records
    from superweights.subject.text import read_text

    try:
        record = records.Record.from_json(read_text(path).text)
        weights = records.weights_of(record)
        fingerprint = record.inputs["fingerprint"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SuperweightsError(
            f"{path} is no record of a search.", hint="make one with superweights find MODEL --out FILE."
        ) from error
    if fingerprint != checkpoint.fingerprint():
        raise SuperweightsError(
            f"{path} is about another checkpoint (fingerprint {str(fingerprint)[:12]}, and {checkpoint.name} "
            f"has {checkpoint.fingerprint()[:12]}).",
            hint="search this one with superweights find MODEL --out FILE, or name the weights with --weights.",
        )
    return [weight.address for weight in weights]
