"""What `--json` prints of a record: itself, or its findings one a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from superweights.record import Record, plain, to_json_line


def json_lines(record: Record) -> Iterator[str]:
    """Lines of strict JSON: a search's candidates, a scan's findings, an experiment's rows, the models of a census; or
    the record itself."""
    told = _TOLD.get(record.command.split(" ")[0])
    if told is None:
        yield record.to_json()
    else:
        yield from map(to_json_line, told(record))


def _candidates(record: Record) -> Iterator[Any]:
    return (candidate.to_json() for candidate in record.findings.candidates)


def _scanned(record: Record) -> Iterator[dict[str, Any]]:
    """Every finding by itself; `finding` says which kind it is, the summary comes last."""
    data = plain(record.findings)
    for kind in ("suspects", "neurons", "tensors", "skipped"):
        yield from ({"finding": kind.removesuffix("s"), **row} for row in data.pop(kind))
    yield {"finding": "summary", **data}


def _reproduced(record: Record) -> Iterator[dict[str, Any]]:
    """The conditions, then every row."""
    whole = plain(record.findings)
    rows = whole.pop("rows")
    yield {"kind": "conditions", **whole}
    yield from ({"kind": "row", "experiment": whole["experiment"], **row} for row in rows)


def _counted(record: Record) -> Iterator[dict[str, Any]]:
    """Every line of the list by itself; `status` says what became of it."""
    yield from ({"status": "entered", **model.line()} for model in record.findings.models)
    yield from ({"status": "failed", **plain(each)} for each in record.findings.failed)
    yield from ({"status": "duplicate", **plain(each)} for each in record.findings.duplicates)


_TOLD = {"find": _candidates, "scan": _scanned, "reproduce": _reproduced, "census": _counted}
