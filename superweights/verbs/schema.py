"""The layout of what `facts` gives, for tools that read it. Needs no torch."""

from __future__ import annotations

from superweights.findings.facts import json_schema
from superweights.record import to_json_line


def facts_schema() -> str:
    """The JSON schema of `findings.Facts`, in one line."""
    return to_json_line(json_schema())
