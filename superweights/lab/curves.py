"""What changed while runs were trained, as charts and films for a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from superweights.lab.folder import RunFolder
from superweights.lab.frames import Frame, load_frames
from superweights.lab.judging import Spread
from superweights.reports.blocks import Chart, Film, Reel, Series

# Title, unit, what is read of a profile, and whether the axis is logarithmic.
_CURVES: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None], bool], ...] = (
    ("Held-out loss", "nats per token", lambda p: p["loss"], False),
    ("Largest weight on token 0", "share of queries and heads", lambda p: p["argmax_share"], False),
    ("Kurtosis over the channels of token 0", "Gaussian: 3", lambda p: p["kurtosis_channel_first"], True),
    ("Largest activation of token 0", "", lambda p: p["peak_first"], True),
    ("Norm of token 0's value over the others'", "", lambda p: p["value_drain"], False),
)
_GAP = 3  # pixels between two maps


def charts(runs: Mapping[str, Sequence[RunFolder]], which: str) -> list[Chart]:
    """One chart for each measure, over steps: a line for each design, the mean over its seeds with their range."""
    profiles = {name: [folder.profiles() for folder in folders] for name, folders in runs.items()}
    found = []
    for title, unit, read, log in _CURVES:
        steps = sorted({line["step"] for held in profiles.values() for run in held for line in run})
        series = tuple(_series(name, held, steps, read) for name, held in profiles.items())
        says = f"{title} over training, {which}: " + "; ".join(
            f"{one.name} ends at {_last(one):.3g}" for one in series if _last(one) is not None
        )
        found.append(Chart(f"{title}, {which}", says, "step", unit, tuple(map(float, steps)), series, log))
    return found


def _last(series: Series) -> float | None:
    return next((value for value in reversed(series.values) if value is not None), None)


def _series(
    name: str,
    runs: Sequence[Sequence[dict[str, Any]]],
    steps: Sequence[int],
    read: Callable[[dict], float | None],
) -> Series:
    spreads = [
        Spread.of([read(line) for run in runs for line in run if line["step"] == step]) for step in steps
    ]
    means, lows, highs = (
        tuple(None if spread is None else getattr(spread, part) for spread in spreads)
        for part in ("mean", "low", "high")
    )
    several = any(spread is not None and spread.n > 1 for spread in spreads)
    return Series(name, means, lows if several else (), highs if several else (), dashed=name == "control")


def film(runs: Mapping[str, RunFolder]) -> Film | None:
    """The birth of a sink: each design's attention on one held-out row, layer beside layer, and its tokens' norms.

    Steps that all runs were looked at are shown. None where there are no two of them.
    """
    held = {
        name: {frame.step: frame for frame in load_frames(folder.frames)} for name, folder in runs.items()
    }
    steps = sorted(set.intersection(*(set(frames) for frames in held.values()))) if held else []
    if len(steps) < 2:
        return None
    reels = []
    for name, frames in held.items():
        shown = [frames[step] for step in steps]
        largest = max(float(frame.norms.max()) for frame in shown) or 1.0
        reels.append(Reel(name, tuple(_picture(frame, largest) for frame in shown)))
    return Film(
        "The birth of a sink",
        "Attention of one held-out row: a query's weights run from left to right, later queries further down, one map "
        "for each layer (heads averaged); token 0 is the left column. Below, the norm of each token's residual stream, "
        "from the embedding down to the last block, on one scale for each design.",
        tuple(f"step {step:,}" for step in steps),
        tuple(reels),
    )


def _picture(frame: Frame, largest: float) -> tuple[bytes, ...]:
    """Maps side by side, norms below, as rows of grey bytes."""
    maps = frame.attention.astype(np.float64).mean(1) / 255
    layers, tokens, _ = maps.shape
    width = layers * tokens + (layers - 1) * _GAP
    strip = frame.norms / largest
    tall = 4  # pixels for each layer of norms
    image = np.zeros((tokens + _GAP + tall * len(strip), width))
    for layer, attention in enumerate(maps):
        left = layer * (tokens + _GAP)
        image[:tokens, left : left + tokens] = np.sqrt(attention)  # small weights stay visible
        if layer:
            image[:, left - _GAP : left] = 0.08
    image[tokens : tokens + _GAP] = 0.08
    image[tokens + _GAP :, :tokens] = np.repeat(strip, tall, 0)
    return tuple(row.tobytes() for row in (image.clip(0, 1) * 255).round().astype(np.uint8))
