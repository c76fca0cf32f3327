"""`superweights.activations`: what rounding the inputs of linear layers costs."""

from __future__ import annotations

from typing import Any

from superweights.budget.rounded_inputs import Ways, round_inputs
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.stream.opening import opening
from superweights.subject import Reading

__all__ = ["Ways", "activations"]


def activations(
    model: Any = None,
    reading: Reading = Reading(windows=4),  # noqa: B008 - frozen
    ways: Ways = Ways(),  # noqa: B008 - frozen
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Activations`: the model's scores as it is, and with its inputs rounded in each of `ways`.

    `model` as in `score`. The ways are plain rounding, large inputs held out, clipping and SmoothQuant, at each scale.

    >>> record = activations("embedded", ways=Ways(scales=["tensor"]))     # doctest: +SKIP
    """
    ways.schemes()  # refuses what there is none of before anything is opened
    text = reading.read()
    progress("opening", 0, 1)
    with opening(model) as opened:
        found = round_inputs(opened.model, opened.tokenizer, reading, ways, seed=seed, progress=progress)
        return Record.of(
            "activations",
            opened.checkpoint,
            seed=seed,
            scores=(found.base,),
            findings=found,
            text_sha256=text.sha256,
        )
