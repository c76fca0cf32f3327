"""Named suites and the arms in them."""

from __future__ import annotations

from collections.abc import Mapping

from superweights.errors import SuperweightsError
from superweights.lab.recipe import Recipe
from superweights.lab.suites.claims_of_papers import ACTIVATIONS, DEPTH, PROTECTED, SIGNS
from superweights.lab.suites.prevention import PREVENTION
from superweights.lab.suites.suite import CONTROL, Arm, Cell, Phenomenon, Sign, Suite

__all__ = [
    "CONTROL", "PREVENTION", "SUITES", "Arm", "Cell", "Phenomenon", "Sign", "Suite", "recipe_named", "suite_named",
]  # fmt: skip

SUITES: Mapping[str, Suite] = {
    suite.name: suite for suite in (PREVENTION, SIGNS, DEPTH, ACTIVATIONS, PROTECTED)
}


def suite_named(name: str) -> Suite:
    """The suite of this name. Raises `SuperweightsError` with the list for any other."""
    if name not in SUITES:
        raise SuperweightsError(f"There is no suite {name!r}.", hint=f"there is {', '.join(SUITES)}.")
    return SUITES[name]


def recipe_named(name: str) -> Recipe:
    """The recipe of an arm of some suite, by the arm's name. Raises `SuperweightsError` with the list."""
    for suite in SUITES.values():
        if name in suite.names:
            return suite.recipe(name)
    known = sorted({arm for suite in SUITES.values() for arm in suite.names})
    raise SuperweightsError(
        f"There is no recipe {name!r}.", hint=f"give a TOML file, or one of {', '.join(known)}."
    )
