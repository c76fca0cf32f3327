"""What dropping costs: losses of the model without each choice, on the same windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from superweights.axes import Int
from superweights.progress import Progress
from superweights.pruning.dropped import Dropped
from superweights.pruning.leaving_out import without
from superweights.record import Score
from superweights.scoring import loss_change, loss_per_window, perplexity_of


@dataclass(frozen=True)
class DropEffect:
    """The model without `dropped`: its perplexity, and the paired rise of its loss."""

    dropped: Dropped
    perplexity: Score
    loss: Score


def drop_effects(
    model: nn.Module,
    windows: Int[Tensor, "n T"],
    choices: Sequence[Dropped],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Score, list[DropEffect]]:
    """The perplexity of `model` on `windows [n, T]`, and that without each of `choices`, one at a time.

    Raises `SuperweightsError` as `without` does.
    """
    base = loss_per_window(model, windows, batch_size=batch_size)
    effects = []
    for done, dropped in enumerate(choices, 1):
        with without(model, dropped):
            losses = loss_per_window(model, windows, batch_size=batch_size)
        effects.append(DropEffect(dropped, perplexity_of(losses), loss_change(base, losses)))
        if progress is not None:
            progress("dropping", done, len(choices))
    return perplexity_of(base), effects
