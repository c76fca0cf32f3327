"""What is held out where: layer by layer with the error it spares, as a static list, and how much the list covers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.progress import Progress
from superweights.quantization.activation_scheme import ActivationScheme, HeldPlace, Hold
from superweights.quantization.calibration import Calibration, run_windows
from superweights.quantization.linears import Linear, observed, tokens_of
from superweights.quantization.rounding import Rounding

_EXAMPLES = 3


@dataclass(frozen=True)
class HeldScalar:
    """One held scalar: its place, the largest value it had, and in what share of the sequences it was held out."""

    place: HeldPlace
    value: float
    share: float


@dataclass(frozen=True)
class LayerReport:
    """What rounding does to one layer's product, with and without holding out.

    `held` of `scalars` inputs were held out; `examples` are the largest of them. The errors are those that the
    rounded input makes in the product: the norm of the error over the norm of the product, mean over tokens.
    """

    module: str
    """The layer's name in the model."""
    scalars: int
    held: int
    examples: tuple[HeldScalar, ...]
    error_plain: float
    """The error with nothing held out."""
    error_held: float
    """The error with it."""

    @property
    def share(self) -> float:
        """The share of the inputs that was held out."""
        return self.held / self.scalars

    def __str__(self) -> str:
        said = f"{self.module}: {self.held:,} of {self.scalars:,} scalars held out ({self.share:.2%}), "
        return f"{said}error {self.error_plain:.2%} without, {self.error_held:.2%} with"


@torch.no_grad()
def activation_report(
    model: nn.Module,
    windows: Int[Tensor, "n length"],
    scheme: ActivationScheme,
    calibration: Calibration | None = None,
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> tuple[LayerReport, ...]:
    """For each layer, in order: what `scheme` holds out on token ids `windows [n, length]`, and the errors.

    The model runs unrounded, so that every layer is judged on the inputs it should get.
    """
    rounding = Rounding(model, scheme, calibration, integer=False)
    unheld = None if calibration is None else calibration.without_holding()
    bare = Rounding(model, replace(scheme, hold=Hold()), unheld, integer=False)
    sums: dict[str, list[float]] = {linear.name: [0.0, 0.0, 0.0, 0.0] for linear in rounding.linears}
    seen: dict[str, _Seen] = {linear.name: _Seen() for linear in rounding.linears}

    def look(linear: Linear, x: Tensor) -> None:
        rows, sequences = tokens_of(x)
        rows = rounding.smoothed(linear, rows)
        matrix = rounding.weight(linear).matrix()
        size = functional.linear(rows, matrix).norm(dim=1).clamp(min=1e-30)
        rounded = rounding.rounded(linear, x)
        total = sums[linear.name]
        for i, each in enumerate((bare.rounded(linear, x), rounded)):
            wrong = functional.linear(each.dequantize() - rows, matrix).norm(dim=1)
            total[i] += float((wrong / size).sum())
        total[2] += len(rows)
        total[3] += rows.numel()
        seen[linear.name].add(rounded.rows, rounded.channels, rounded.values, len(rows) // sequences)

    with observed(rounding.linears, look):
        run_windows(model, windows, batch_size, progress)
    return tuple(
        LayerReport(
            name,
            int(scalars),
            seen[name].number,
            seen[name].examples(name, len(windows)),
            plain / max(tokens, 1),
            held / max(tokens, 1),
        )
        for name, (plain, held, tokens, scalars) in sums.items()
    )


@torch.no_grad()
def locate(
    model: nn.Module,
    windows: Int[Tensor, "n length"],
    scheme: ActivationScheme,
    calibration: Calibration | None = None,
    *,
    share: float = 0.5,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> tuple[HeldPlace, ...]:
    """The places that `scheme` holds out in at least `share` of the sequences of `windows [n, length]`.

    A channel that is held out at this share of all tokens is listed once, at any token. `Hold("places",
    places=...)` holds them out without looking at sizes, in any runtime that can read a list.
    """
    found: list[HeldPlace] = []
    length = windows.shape[1]
    for name, seen in _held(model, windows, scheme, calibration, batch_size, progress).items():
        channels: Counter[int] = Counter()
        for (_, channel), number in seen.times.items():
            channels[channel] += number
        always = {c for c, number in channels.items() if number >= share * length * len(windows)}
        found += [HeldPlace(name, channel, None) for channel in sorted(always)]
        often = [at for at, number in seen.times.items() if number >= share * len(windows)]
        found += [HeldPlace(name, c, position) for position, c in sorted(often) if c not in always]
    return tuple(found)


@dataclass(frozen=True)
class Coverage:
    """How much of what a dynamic rule holds out a static list names: of the scalars, and of their squares."""

    held: int
    """How many scalars the rule held out."""
    covered: int
    """How many of them the list names."""
    share_of_scalars: float | None
    """The latter over the former; None where nothing was held out."""
    share_of_squares: float | None
    """The same, each scalar counted by its square."""


@torch.no_grad()
def coverage(
    model: nn.Module,
    windows: Int[Tensor, "n length"],
    scheme: ActivationScheme,
    places: Sequence[HeldPlace],
    calibration: Calibration | None = None,
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Coverage:
    """How much of what `scheme` holds out on `windows [n, length]` is in `places`; shares are None for 0."""
    numbers, squares = [0, 0], [0.0, 0.0]
    for name, seen in _held(model, windows, scheme, calibration, batch_size, progress).items():
        here = {(p.position, p.channel) for p in places if p.is_in(name)}
        for (position, channel), number in seen.times.items():
            named = (position, channel) in here or (None, channel) in here
            for i in range(1 + named):
                numbers[i] += number
                squares[i] += seen.squares[position, channel]
    if not numbers[0]:
        return Coverage(0, 0, None, None)
    return Coverage(numbers[0], numbers[1], numbers[1] / numbers[0], squares[1] / squares[0])


class _Seen:
    """How often, and how large, each (position, channel) of one layer was held out."""

    def __init__(self) -> None:
        self.number = 0
        self.times: Counter[tuple[int, int]] = Counter()
        self.squares: Counter[tuple[int, int]] = Counter()
        self.largest: dict[tuple[int, int], float] = {}

    def add(self, rows: Tensor, channels: Tensor, values: Tensor, length: int) -> None:
        self.number += len(values)
        for row, channel, value in zip(rows.tolist(), channels.tolist(), values.tolist(), strict=True):
            at = (row % length, channel)
            self.times[at] += 1
            self.squares[at] += value * value
            if abs(value) > abs(self.largest.get(at, 0.0)):
                self.largest[at] = value

    def examples(self, name: str, sequences: int) -> tuple[HeldScalar, ...]:
        """The places of the largest scalars."""
        first = sorted(self.largest, key=lambda at: -abs(self.largest[at]))[:_EXAMPLES]
        return tuple(
            HeldScalar(HeldPlace(name, at[1], at[0]), self.largest[at], self.times[at] / sequences)
            for at in first
        )


def _held(model, windows, scheme, calibration, batch_size, progress) -> dict[str, _Seen]:
    """What the dynamic rule of `scheme` holds out of the model's own inputs, by layer."""
    if scheme.hold.rule in ("none", "places"):
        raise SuperweightsError(
            f"This scheme finds no places ({scheme.hold}).",
            hint='use Hold("top", m) or Hold("deviations", k).',
        )
    rounding = Rounding(model, scheme, calibration, integer=False)
    found = {linear.name: _Seen() for linear in rounding.linears}

    def look(linear: Linear, x: Tensor) -> None:
        sequences = x.shape[0] if x.dim() > 2 else 1
        rounded = rounding.rounded(linear, x)
        length = len(rounded.codes) // sequences
        found[linear.name].add(rounded.rows, rounded.channels, rounded.values, length)

    with observed(rounding.linears, look):
        run_windows(model, windows, batch_size, progress)
    return found
