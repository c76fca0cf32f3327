"""`train`: a recipe becomes a model in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.stopping import kept_in

if TYPE_CHECKING:
    from superweights.lab.recipe import Recipe
    from superweights.lab.result import Result


def train(
    recipe: Recipe | Path | str,
    to: Path | str,
    *,
    seed: int | None = None,
    tensorboard: bool = False,
    cache: Path | str | None = None,
    progress: Progress = silent,
) -> Result:
    """What became of training `recipe` in the folder `to`: its profile, its speed, or at which step it diverged.

    `recipe` is a `Recipe`, the path of a TOML file, or the name of an arm (`superweights lab list`). `to/model` is an
    ordinary transformers checkpoint. Killed at any moment and called again it goes on and ends with the same weights;
    under `torchrun` the batch is divided between the processes. `seed` replaces the recipe's. `tensorboard` also
    writes event files, `cache` is where a text task keeps its tokens.

    Raises `SuperweightsError` for a recipe that cannot be, and for a folder that holds another one's run.

    >>> train("softmax1", "runs/softmax1").end.argmax_share  # doctest: +SKIP
    """
    from superweights.lab.recipe import Recipe
    from superweights.lab.suites import recipe_named
    from superweights.lab.training import train as through

    if not isinstance(recipe, Recipe):
        is_file = Path(recipe).suffix == ".toml" or Path(recipe).exists()
        recipe = Recipe.read(recipe) if is_file else recipe_named(str(recipe))
    if seed is not None:
        recipe = recipe.with_("seed", seed)
    with kept_in(to):
        return through(recipe, to, cache=cache, tensorboard=tensorboard, progress=progress)


def speaks() -> bool:
    """Whether this process tells what came out: of those that torchrun starts one does."""
    return os.environ.get("RANK", "0") == "0"


def refuse_failure(result: Result, to: Path | str) -> None:
    """Raise `SuperweightsError` where the training has failed, with the reason; its log stays in `to`."""
    if result.why is not None:
        raise SuperweightsError(result.why, hint=f"the log is kept in {to}; lower the learning rate.")
