"""The residual stream from block to block: where a spike steps up, stays, and steps down."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.branch import Visit

# A step is a change of the largest value by these factors; a plateau is a value this far above the median.
# The factors are those that separate the known writers and erasers of SmolLM2 (up 3.6 to 545, down 0.20 to
# 0.41) from everything between them (0.98 to 1.2).
_UP, _DOWN, _MASSIVE = 3.0, 0.5, 100.0


@dataclass(frozen=True)
class LayerSpike:
    """The largest residual value after a block: its size, over the median, and where it stands.

    `layer` counts the blocks of the `tower` (None where there is one stack only).
    `phase`: `step_up` (the block writes it), `plateau`, `step_down` (the block erases it), or `calm`.
    """

    path: str
    """The block's module."""
    layer: int
    """Its number, counted from 0."""
    peak: float
    """The largest |value| of the residual stream after it."""
    ratio: float
    """That over the median |value|."""
    channel: int
    """The residual channel where it stands."""
    position: int
    """The token where it stands, counted from 0."""
    phase: str
    tower: str | None = None


def read_layer(visit: Visit) -> LayerSpike:
    """The spike of one block, from the residual stream before and after it."""
    before, after = visit.before.float(), visit.after.float().abs()
    width = after.shape[-1]
    peak = float(after.max())
    place = int(after.argmax())
    ratio = peak / max(float(after.median()), 1e-12)
    change = peak / max(float(before.abs().max()), 1e-12)
    was_massive = float(before.abs().max()) >= _MASSIVE * float(before.abs().median())
    if change >= _UP and ratio >= _MASSIVE:
        phase = "step_up"
    elif change <= _DOWN and was_massive:
        phase = "step_down"
    else:
        phase = "plateau" if ratio >= _MASSIVE else "calm"
    position = place // width % after.shape[-2]
    return LayerSpike(visit.path, visit.layer, peak, ratio, place % width, position, phase, visit.tower)


@dataclass(frozen=True, eq=False)
class ChannelChange:
    """What a block adds to each residual channel: the largest change over all tokens `[width]`, by magnitude."""

    peaks: Tensor
    """The largest |change| of each channel `[width]`."""
    larger: Tensor
    """Whether the channel is larger in magnitude after the block than before, at that token `[width]`."""

    def of_width(self, width: int) -> ChannelChange | None:
        """The change in channels of this width: itself, or the largest over several residual streams laid
        side by side (hyper-connections); None where the widths have nothing to do with each other."""
        if self.peaks.shape[0] % width:
            return None
        peaks, stream = self.peaks.view(-1, width).max(0)
        return ChannelChange(peaks, self.larger.view(-1, width).gather(0, stream.unsqueeze(0))[0])

    @property
    def top_channel(self) -> int:
        return int(self.peaks.argmax())

    def peak(self, channel: int) -> float:
        return float(self.peaks[channel])

    def ratio(self, channel: int) -> float:
        """The channel's largest change over the median channel's."""
        median = max(float(self.peaks.median()), 1e-6 * float(self.peaks.max()), 1e-30)
        return float(self.peaks[channel]) / median

    def grows(self, channel: int) -> bool:
        """Whether the largest change made the channel larger in magnitude."""
        return bool(self.larger[channel])


def channel_change(visit: Visit) -> ChannelChange:
    """The change that a block made to its residual stream."""
    before, after = visit.before.float().flatten(0, -2), visit.after.float().flatten(0, -2)
    if before.shape != after.shape:
        before = torch.zeros_like(after)
    peaks, rows = (after - before).abs().max(0)
    at = rows.unsqueeze(0)
    return ChannelChange(peaks, after.gather(0, at)[0].abs() > before.gather(0, at)[0].abs())
