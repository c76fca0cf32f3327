"""The published experiments on super weights, run on any model, beside the published figures.

>>> from superweights.reproductions import EXPERIMENTS
>>> ", ".join(EXPERIMENTS)
'table1, figure3, figure4, figure5, figure6'

Source: Yu et al., The Super Weight in Large Language Models, arXiv 2411.07191. What they printed, and what is
known to be wrong with it, stands in `published.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.errors import SuperweightsError
from superweights.findings.reproduction import Column, Plot, Published, Reproduction
from superweights.progress import Progress, silent
from superweights.reproductions import figure3, figure4, figure5, figure6, table1
from superweights.reproductions.published import published_for
from superweights.reproductions.subject import Setting, Subject, tokenizer_of
from superweights.reproductions.weights import weights_to_reproduce
from superweights.stream import streaming

__all__ = [
    "EXPERIMENTS",
    "Column",
    "Plot",
    "Published",
    "Reproduction",
    "Setting",
    "published_for",
    "reproduce",
]

_RUNS: dict[str, Callable[[Subject], Reproduction]] = {
    "table1": table1.run,
    "figure3": figure3.run,
    "figure4": figure4.run,
    "figure5": figure5.run,
    "figure6": figure6.run,
}
EXPERIMENTS = tuple(_RUNS)


def reproduce(
    experiment: str,
    checkpoint: Checkpoint | str | None = None,
    setting: Setting | None = None,
    *,
    progress: Progress | None = None,
    **loading: Any,
) -> Reproduction:
    """One published experiment on `checkpoint` (a name or an open one; None: the embedded model).

    The super weights are those of `setting`, else known ones whose numbers agree, else what `find` finds.
    `loading` goes to `stream.streaming`: dtype, device, resident. Figure 3 needs no super weights.

    Raises `SuperweightsError` for an experiment that there is none of, a checkpoint without tokenizer, or one
    in which no super weight is found.
    """
    if experiment not in _RUNS:
        raise SuperweightsError(
            f"There is no experiment {experiment!r}.", hint=f"choose one of {', '.join(EXPERIMENTS)}."
        )
    if not isinstance(checkpoint, Checkpoint):
        with open_checkpoint(checkpoint) as opened:
            return reproduce(experiment, opened, setting, progress=progress, **loading)
    setting, progress = setting or Setting(), progress or silent
    tokenizer = tokenizer_of(checkpoint)
    chosen = weights_to_reproduce(
        checkpoint,
        given=setting.weights,
        record=setting.record,
        search=experiment != "figure3",
        progress=progress,
        **loading,
    )
    with streaming(checkpoint, **loading) as model:
        return _RUNS[experiment](Subject(checkpoint, model, tokenizer, setting, chosen, progress))
