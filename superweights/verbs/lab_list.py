"""`superweights.lab_list`: the suites of the lab, or the recipe of one arm."""

from __future__ import annotations

from superweights.lab.sheets import Shown, suites_shown
from superweights.lab.suites import recipe_named


def lab_list(toml: str | None = None) -> Shown | str:
    """The tables of all suites; with `toml` the recipe of that arm, as a TOML file's text."""
    return suites_shown() if toml is None else recipe_named(toml).to_toml()
