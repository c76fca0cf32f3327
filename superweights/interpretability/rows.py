"""Numbers gathered row by row while a model runs: one for each row of text and each layer."""

from __future__ import annotations

import torch
from torch import Tensor

from superweights.axes import Float
from superweights.record import Score
from superweights.scoring.error import mean_error


class PerRow:
    """What a reduction keeps of each row: a few numbers `[...]` for each layer, float64 on the CPU."""

    def __init__(self) -> None:
        self._held: dict[int, list[Tensor]] = {}

    def add(self, layer: int, values: Tensor) -> None:
        """The numbers of a batch's rows in one layer: `[B, ...]`."""
        self._held.setdefault(layer, []).append(values.detach().double().cpu())

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have any, in order."""
        return tuple(sorted(self._held))

    def stacked(self) -> Tensor:
        """All of them: `[L, n, ...]`, layers in order."""
        return torch.stack([torch.cat(self._held[layer]) for layer in self.layers])

    def means(self) -> tuple[float, ...]:
        """The mean over rows in each layer, for one number a row."""
        return tuple(self.stacked().mean(1).tolist())

    def score(self, name: str, unit: str) -> Score:
        """The mean over layers and rows, with its standard error over rows."""
        values = self.stacked()
        return score_of(name, values.reshape(*values.shape[:2], -1).mean((0, 2)), unit)


def score_of(name: str, rows: Float[Tensor, " n"], unit: str) -> Score:
    """The mean of one number for each row `[n]`, with its standard error."""
    return Score(name, rows.double().mean().item(), unit, len(rows), mean_error(rows))
