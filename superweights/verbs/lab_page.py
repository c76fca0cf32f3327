"""`superweights.lab_page`: runs, or a suite, as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_replaceable
from superweights.lab.page import runs_page, suite_page
from superweights.lab.running import holds_suite, read_suite


def lab_page(folders: Sequence[Path | str], to: Path | str | None = None) -> str:
    """The page: the table, curves over training, the birth of a sink; of a suite also verdicts and claims.

    It is also written to the file `to`.
    """
    if to is not None:
        check_replaceable(Path(to))
    whole = len(folders) == 1 and holds_suite(folders[0])
    made = suite_page(read_suite(folders[0])) if whole else runs_page(folders)
    if to is not None:
        write_text(Path(to), made)
    return made
