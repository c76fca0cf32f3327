"""A report in one of its forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from superweights.errors import SuperweightsError
from superweights.findings import FORMS as FINDINGS
from superweights.findings import typed
from superweights.record import Record, plain, to_json_line
from superweights.reports.blocks import Section
from superweights.reports.html import to_html
from superweights.reports.markdown import to_markdown
from superweights.reports.naming import model_of
from superweights.reports.sections import sections_of

_WRITERS: dict[str, Callable[[str, Sequence[Section]], str]] = {"html": to_html, "md": to_markdown}
FORMATS = (*_WRITERS, "json")


def render(records: Sequence[Record], format_: str = "html") -> str:
    """One report about all of `records`: a self-contained HTML page, Markdown for a model card, or JSON.

    Sections appear where their records are; records of one command from several models stand side by side.
    Raises `SuperweightsError` for no records, for one whose findings are not what its command finds, and for a format
    that is not in `FORMATS`.
    """
    if not records:
        raise SuperweightsError(
            "There are no records to report.", hint="superweights find MODEL --out found.json."
        )
    if format_ not in FORMATS:
        raise SuperweightsError(f"There is no format {format_!r}.", hint=f"choose from {', '.join(FORMATS)}.")
    records = [_readable(record) for record in records]
    sections = sections_of(records)
    title = "Super weights of " + ", ".join(dict.fromkeys(model_of(record) for record in records))
    if format_ == "json":
        named = [
            {"title": s.title, "blocks": [{"kind": type(b).__name__, **asdict(b)} for b in s.blocks]}
            for s in sections
        ]
        return json.dumps(json.loads(to_json_line({"title": title, "sections": named})), indent=1) + "\n"
    return _WRITERS[format_](title, sections)


def _readable(record: Record) -> Record:
    """With its findings as sections read them: as a dataclass where their command has one, else as JSON values."""
    told = typed(record, f"The record of {record.command}")
    return told if told.command.split(" ")[0] in FINDINGS else replace(told, findings=plain(told.findings))
