"""How results are told to people: one file for each kind of record, which gives lines and tables. Needs no torch.

`parts_of` gives what a page is made of; a command prints it, a notebook and `print(record)` show it as text.
"""

from __future__ import annotations

import sys
from dataclasses import is_dataclass
from importlib import import_module
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from superweights.tables.page import Parts, page_text

if TYPE_CHECKING:
    from pathlib import Path

    from superweights.record import Record

__all__ = ["parts_of", "printed", "text_of"]

# Which file tells a record, by its command's first word.
_TOLD_IN = {
    "ablate": "effects", "activations": "activations", "adapt": "adaptation", "anatomy": "anatomy", "audit": "audit",
    "census": "census", "drift": "adaptation", "evaluate": "tasks", "facts": "facts", "find": "found", "plan": "plan",
    "profile": "profile", "prune": "prune", "quantize": "quantize", "reproduce": "reproduce", "scale": "effects",
    "scan": "scan", "score": "effects", "tour": "tour",
}  # fmt: skip


def parts_of(record: Record, kept_in: Path | None = None) -> Parts:
    """The lines and tables of `record`; its scores alone where its command is not known, or its findings not typed.

    `kept_in` is the file that holds it, for what is said to be done with it next.
    """
    home = _TOLD_IN.get(record.command.split(" ")[0])
    known = home is not None and is_dataclass(record.findings)
    told_in = import_module(f"superweights.tables.{home if known else 'scores'}")
    further = {"kept_in": kept_in} if known and home == "found" else {}  # the one that says what to do next
    return told_in.parts(record, **further)


def text_of(record: Record, width: int | None = None) -> str:
    """`parts_of` as plain text, `width` characters wide; None: as wide as it needs."""
    return page_text(parts_of(record), width)


def printed(record: Record) -> str:
    """`text_of`, as wide as the terminal where stdout is one; else as wide as it needs."""
    stdout = sys.stdout
    return text_of(record, get_terminal_size().columns if stdout is not None and stdout.isatty() else None)
