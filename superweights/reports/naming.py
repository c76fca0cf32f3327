"""What a report calls a model."""

from __future__ import annotations

from superweights.record import Record


def model_of(record: Record) -> str:
    """What the record calls its model, with its revision; of a path the last part, for where it lay says nothing."""
    asked = str(record.inputs.get("model") or record.inputs.get("name") or "a model without a name")
    name = asked.rstrip("/").rsplit("/", 1)[-1] if asked.startswith(("/", ".", "~")) else asked
    revision = record.inputs.get("revision")
    return f"{name}@{revision[:12]}" if revision else name
