"""`superweights.lab_compare`: finished runs, or a suite, beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from superweights.lab.comparison import compare_folders
from superweights.lab.running import holds_suite, read_suite
from superweights.lab.sheets import Shown, runs_shown, suite_shown


def lab_compare(folders: Sequence[Path | str]) -> Shown:
    """The tables of runs, those that differ only in their seed in one line; of a suite, with its verdicts."""
    if len(folders) == 1 and holds_suite(folders[0]):
        return suite_shown(read_suite(folders[0]))
    return runs_shown(compare_folders(folders))
