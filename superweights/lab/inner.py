"""What goes on between the first block and the last: variance, what is lost without a block, neurons, drift."""

from __future__ import annotations

import statistics
from typing import Any

from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.interpretability.depth.question import Depths
from superweights.interpretability.depth.skipping import removal_effects
from superweights.interpretability.sparsity import Sparsities
from superweights.interpretability.study import Study

# Rows that each block is taken out for.
_ROWS = 16


def inner_numbers(model: nn.Module, ids: Tensor) -> dict[str, Any]:
    """The fields of a `Profile` that are read inside the blocks, on rows `ids [n, T]`; None where the model hides them.

    Sources: arXiv 2502.05795 for variance and removal, 2605.17659 for neurons and drift.
    """
    return {**_depth(model, ids), **_neurons(model, ids)}


def _depth(model: nn.Module, ids: Tensor) -> dict[str, Any]:
    try:
        study = Study(model, ids)
        (depth,) = study.ask(Depths())
        _, removals = removal_effects(Study(model, ids[:_ROWS]))
    except SuperweightsError:
        return {}
    first, last = depth.layers[0].variance, depth.layers[-1].variance
    late = [removal.loss.value for removal in removals[-max(1, len(removals) // 3) :]]
    return {"variance_growth": last / first if first else None, "late_removal": statistics.fmean(late)}


def _neurons(model: nn.Module, ids: Tensor) -> dict[str, Any]:
    try:
        (seen,) = Study(model, ids).ask(Sparsities())
    except SuperweightsError:
        return {}
    down = [each.drift for each in seen.drifts if each.name == "down-projection"]
    layers: tuple[Any, ...] = seen.layers
    return {
        "neuron_peak": max(max(each.spike, each.spike_first) for each in layers),
        "neuron_zeros": statistics.fmean(each.zeros for each in layers),
        "neuron_near_zeros": statistics.fmean(each.soft_zeros for each in layers),
        "down_drift": statistics.fmean(down) if down else None,
    }
