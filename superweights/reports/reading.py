"""Records from files: JSON, or JSON lines, as every command's --out writes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from superweights.artefacts.reading import parse_lines, read_text
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.findings import typed
from superweights.record import Record
from superweights.reports.findings import SCHEMAS

_HINT = "give a file that --out of a command wrote; if it is cut off, write it anew."


def read_records(paths: Iterable[Path]) -> list[Record]:
    """The records in these files, in their order.

    Raises `SuperweightsError` naming the file, and the field where there is one, for what is missing, too large, no
    regular file, no JSON, no record, of another version, or of findings that its command does not have.
    """
    records: list[Record] = []
    for path in map(Path, paths):
        for data in parse_lines(read_text(path, hint=_HINT), str(path), hint=_HINT):
            record = Record.from_data(data, str(path))
            command = record.command.split(" ")[0]
            if command in SCHEMAS:
                shaped(SCHEMAS[command], record.findings, f"{path}, findings", _HINT, "some")
            records.append(typed(record, f"{path}, findings"))
    if not records:
        raise SuperweightsError(
            "There are no records to report.", hint="superweights find MODEL --out found.json writes one."
        )
    return records
