"""`superweights.sweep`: a grid of edits measured on one or more models, kept in one file as the results come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_picture
from superweights.checkpoint import Checkpoint
from superweights.checkpoint.loaded import is_loaded
from superweights.errors import SuperweightsError
from superweights.index.choice import some_weights
from superweights.progress import Progress, silent
from superweights.stopping import kept_in
from superweights.subject import Reading, Source
from superweights.sweeps import Outcome, Point, Setup, prepare
from superweights.sweeps import sweep as measure
from superweights.sweeps.grids import GRIDS, Grids
from superweights.sweeps.swept import Swept, default_store

__all__ = ["GRIDS", "Grids", "Outcome", "Setup", "Swept", "sweep"]


def sweep(
    models: Any,
    weights: Sequence[Address | str] | Address | str = (),
    reading: Reading = Reading(),  # noqa: B008 - frozen
    grids: Grids = Grids(),  # noqa: B008 - frozen
    *,
    record: Path | None = None,
    scores: Sequence[str] = (),
    store: Path | str | None = None,
    workers: int = 1,
    ray: bool = False,
    retry_failed: bool = False,
    plot: Path | str | None = None,
    export: Path | str | None = None,
    progress: Progress = silent,
) -> Swept:
    """The outcome of every point of `grids` over `weights`: those of a `record` of `find`, or the known ones, if none.

    `models` is one or several, each a name, a path or a `Source`. `scores`: `kl` and `agreement` beside the loss. What
    the file `store` has is not measured again, so that a sweep that was ended at any moment goes on when it is
    called again; None is a file in this folder, named after the models. An interrupt says in a note where it is.
    The curves are drawn into `plot` (.svg), every cell of the store is written to `export` as JSON lines.

    >>> swept = sweep("embedded", grids=Grids(["pairs"]), store="pairs.sqlite")            # doctest: +SKIP
    >>> [outcome.loss for outcome in swept.outcomes]                                      # doctest: +SKIP
    """
    check_picture(None if plot is None else Path(plot))
    several = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    sources = [Source.of(each) for each in several]
    if any(is_loaded(source.name) or isinstance(source.name, tuple) for source in sources):
        raise SuperweightsError(
            "A sweep opens its models again in every worker, and a loaded model has no name to open it by.",
            hint="save it with save_pretrained and give the folder.",
        )
    given = Address.several(weights)

    def points(checkpoint: Checkpoint) -> list[Point]:
        return grids.points(checkpoint, given or some_weights(checkpoint, record=record).addresses)

    setups: list[Setup] = []
    for i, source in enumerate(sources):
        progress(f"planning {source.name}", i, len(sources))
        setups.append(prepare(source, points, reading, scores=("loss", *scores), seed=grids.seed))
    kept = default_store(setups) if store is None else Path(store)
    with kept_in(kept):
        how: dict[str, Any] = {"workers": workers, "ray": ray, "retry_failed": retry_failed}
        outcomes = measure(setups, kept, progress=progress, **how)
    swept = Swept(tuple(setups), tuple(outcomes), kept)
    if plot is not None:
        write_text(Path(plot), swept.picture())
    if export is not None:
        write_text(Path(export), swept.export())
    return swept
