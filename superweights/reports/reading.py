"""Records from files: JSON, or JSON lines, as every command's --out writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from superweights.errors import SuperweightsError
from superweights.record import SCHEMA_VERSION, Record, Score

_LARGEST = 64 * 2**20


def read_records(paths: Iterable[Path]) -> list[Record]:
    """The records in these files, in their order.

    Raises `SuperweightsError` for a file that is missing, too large, no JSON, without a record or of another version.
    """
    records: list[Record] = []
    for path in map(Path, paths):
        try:
            if path.stat().st_size > _LARGEST:
                raise SuperweightsError(
                    f"{path} has more than 64 MB, which no record has.",
                    hint="give what --out of a command wrote.",
                )
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise SuperweightsError(
                f"Cannot read {path}: {reason}.", hint="give a file that --out of a command wrote."
            ) from error
        records += _parse(text, path)
    if not records:
        raise SuperweightsError(
            "There are no records to report.", hint="superweights find MODEL --out found.json writes one."
        )
    return records


def _parse(text: str, path: Path) -> list[Record]:
    try:
        whole = json.loads(text)
        lines = whole if isinstance(whole, list) else [whole]
    except ValueError:
        try:
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise SuperweightsError(
                f"{path} is not JSON: {error}.", hint="the file may be cut off; write it anew with --out."
            ) from error
    return [_record(data, path) for data in lines]


def _record(data: object, path: Path) -> Record:
    if not isinstance(data, dict) or "command" not in data or "findings" not in data:
        raise SuperweightsError(f"{path} holds no record.", hint="give a file that --out of a command wrote.")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise SuperweightsError(
            f"{path} holds a record of version {data.get('schema_version')!r}; this program reads {SCHEMA_VERSION}.",
            hint="run its command again with this version.",
        )
    try:
        scores = tuple(Score(**score) for score in data.get("scores", ()))
        return Record(**{**data, "scores": scores})
    except TypeError as error:
        raise SuperweightsError(
            f"{path} holds a record with fields that no record has.", hint="it may be of another program."
        ) from error
