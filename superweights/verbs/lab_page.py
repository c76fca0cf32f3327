"""`superweights.lab_page`: runs, or a suite, as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from superweights.lab.page import runs_page, suite_page
from superweights.lab.running import holds_suite, read_suite


def lab_page(folders: Sequence[Path | str]) -> str:
    """The page: the table, curves over training, the birth of a sink; of a suite also verdicts and claims."""
    whole = len(folders) == 1 and holds_suite(folders[0])
    return suite_page(read_suite(folders[0])) if whole else runs_page(folders)
