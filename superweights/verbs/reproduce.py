"""`superweights.reproduce`: an experiment of the super weight paper on any model, beside the published figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_picture
from superweights.checkpoint import opened_checkpoint
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.reproductions import Setting
from superweights.reproductions import reproduce as run
from superweights.reproductions.plot import draw
from superweights.reproductions.subject import PROMPT, SCALES
from superweights.scoring.effects import Passages
from superweights.subject import Reading, Source
from superweights.subject.text import read_passages

__all__ = ["Passages", "draw", "reproduce"]


def reproduce(
    experiment: str,
    model: Any = None,
    reading: Reading = Reading(windows=8),  # noqa: B008 - frozen
    *,
    weights: Sequence[Address | str] | Address | str = (),
    record: Record | Path | None = None,
    passages: Passages | None = None,
    prompt: str | None = None,
    scales: Sequence[float] | str | None = None,
    plot: Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
    **further: Any,
) -> Record:
    """A record of `findings.Reproduction`: `table1`, `figure3`, `figure4`, `figure5` or `figure6` on `model`.

    It is about `weights`, those of a `record` of `find`, known ones, or what a search finds now. `passages` end in the
    word to predict; `prompt` is the sentence of figures 3 and 4, `scales` the factors of figure 6 (also as `0,0.5,1`).
    A figure is drawn into `plot` (.svg), as `draw(record.findings)` gives it. `further` are fields
    of `reproductions.Setting`: tasks, task_limit, others, top, control.

    Raises `SuperweightsError` for an experiment that there is none of, and for a model without a tokenizer.

    >>> record = reproduce("figure3", "embedded")         # doctest: +SKIP
    >>> record.findings.sentences                         # doctest: +SKIP
    """
    check_picture(plot)
    source = Source.of(model)
    setting = Setting(
        text=None if reading.text is None else reading.read(),
        window=reading.window,
        windows=reading.windows,
        bos=reading.bos,
        batch_size=reading.batch_size,
        passages=() if passages is None else read_passages(passages.file, passages.count),
        prompt=prompt or PROMPT,
        weights=tuple(Address.several(weights)),
        record=record,
        scales=SCALES if scales is None else _factors(scales),
        seed=seed,
        **further,
    )
    with opened_checkpoint(source) as checkpoint:
        found = run(experiment, checkpoint, setting, progress=progress, **source.loading)
        made = Record.of(
            f"reproduce {experiment}",
            checkpoint,
            seed=seed,
            scores=found.scores,
            findings=found,
            text_sha256=found.conditions.get("text_sha256"),
        )
    if plot is not None:
        write_text(plot, draw(found))
    return made


def _factors(scales: Sequence[float] | str) -> tuple[float, ...]:
    """The factors, also where they are written with commas between them."""
    if not isinstance(scales, str):
        return tuple(scales)
    try:
        return tuple(float(part) for part in scales.split(","))
    except ValueError:
        raise SuperweightsError(
            f"{scales!r} is no list of factors.", hint="write --scales 0,0.5,1,2."
        ) from None
