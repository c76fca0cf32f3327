"""What has to be known before a model runs: static limits of each layer's input, and SmoothQuant's scales."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.quantization.activation_scheme import ActivationScheme, Hold
from superweights.quantization.activations import Limits, held_out
from superweights.quantization.linears import Linear, linears_of, observed, places_in, tokens_of
from superweights.quantization.smooth import Smoothing, smoothing_of
from superweights.subject import objective_of
from superweights.subject.facts import forward


@dataclass(frozen=True, eq=False)
class Calibration:
    """What calibration found, for the scheme it was made with: `limits` by layer, and `smoothing`."""

    scheme: ActivationScheme
    """How inputs are rounded."""
    tokens: int
    """How many tokens it has seen."""
    limits: dict[str, Limits] = field(default_factory=dict)
    smoothing: Smoothing = field(default_factory=Smoothing)

    def without_holding(self) -> Calibration:
        """The same text's calibration of the same scheme with nothing held out."""
        limits = {
            n: Limits(k.largest_of_all, k.largest_of_all, k.root_mean_square) for n, k in self.limits.items()
        }
        return replace(self, scheme=replace(self.scheme, hold=Hold()), limits=limits)

    def to_json(self) -> str:
        """The scheme and the static limits as one line, for other programs; smoothing scales are not in it."""
        limits = {name: asdict(limit) for name, limit in self.limits.items()}
        return json.dumps(
            {"scheme": json.loads(self.scheme.to_json()), "tokens": self.tokens, "limits": limits}
        )


@torch.no_grad()
def calibrate(
    model: nn.Module,
    windows: Int[Tensor, "n length"],
    scheme: ActivationScheme,
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Calibration:
    """What `scheme` needs to know of `model`, from token ids `windows [n, length]`: two passes for
    static limits, one for smoothing.

    The model runs as it is, unrounded. Any text of the model's language will do: embedded prose, or what the
    model writes itself. Source of static limits: the largest |x| seen; of thresholds: the root mean square of all
    tokens, times the rule's amount.
    """
    linears = linears_of(model, scheme)
    passes = (scheme.smooth is not None) + 2 * (scheme.scale == "static")
    done = 0

    def run() -> None:
        nonlocal done
        start, total = done, passes * len(windows)
        told = progress or silent
        report = lambda _, n, __: told("calibrating", start + n, total)  # noqa: E731
        run_windows(model, windows, batch_size, report)
        done += len(windows)

    smoothing = Smoothing()
    if scheme.smooth is not None:
        smoothing = smoothing_of(model, linears, scheme.smooth, run)
    limits: dict[str, Limits] = {}
    if scheme.scale == "static":
        spread = _root_mean_squares(linears, smoothing, run)
        limits = _limits(linears, scheme, smoothing, spread, run)
    return Calibration(scheme, windows.numel(), limits, smoothing)


@torch.no_grad()
def run_windows(
    model: nn.Module, windows: Int[Tensor, "n length"], size: int, progress: Progress | None = None
) -> None:
    """Send token ids `windows [n, length]` through `model`, `size` at a time, for those who look on."""
    if windows.dim() != 2 or not windows.numel():
        raise SuperweightsError(
            f"There are no windows of tokens in a shape of {list(windows.shape)}.",
            hint="cut them with superweights.subject.windows.",
        )
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    device = embedding.weight.device
    done = 0
    for batch in windows.split(size):
        rows = batch.to("cpu" if device.type == "meta" else device)
        forward(model, objective_of(model).batch(rows, whole=True))
        done += len(batch)
        if progress is not None:
            progress("windows", done, len(windows))


def _root_mean_squares(
    linears: tuple[Linear, ...], smoothing: Smoothing, run: Callable[[], None]
) -> dict[str, float]:
    squares = {linear.name: 0.0 for linear in linears}
    number = dict.fromkeys(squares, 0)

    def look(linear: Linear, x: Tensor) -> None:
        rows, _ = tokens_of(x)
        rows = smoothing.divide(linear.name, rows)
        squares[linear.name] += float(torch.linalg.vector_norm(rows)) ** 2
        number[linear.name] += rows.numel()

    with observed(linears, look):
        run()
    unseen = [name for name, count in number.items() if not count]
    if unseen:
        raise SuperweightsError(
            f"Calibration never reached {unseen[0]}"
            + (f" and {len(unseen) - 1} more layers." if len(unseen) > 1 else "."),
            hint="calibrate on more text, or skip those layers.",
        )
    return {name: (squares[name] / number[name]) ** 0.5 for name in squares}


def _limits(
    linears: tuple[Linear, ...],
    scheme: ActivationScheme,
    smoothing: Smoothing,
    spread: dict[str, float],
    run: Callable[[], None],
) -> dict[str, Limits]:
    amount = scheme.hold.amount if scheme.hold.rule == "deviations" else None
    found = {
        name: Limits(0.0, 0.0, rms, None if amount is None else amount * rms) for name, rms in spread.items()
    }

    def look(linear: Linear, x: Tensor) -> None:
        rows, sequences = tokens_of(x)
        rows = smoothing.divide(linear.name, rows)
        known = found[linear.name]
        places = places_in(linear.name, scheme)
        mask = held_out(rows, scheme.hold, sequences, limits=known, places=places)
        rest = rows.masked_fill(mask, 0.0)
        found[linear.name] = replace(
            known,
            largest=max(known.largest, float(rest.abs().amax())),
            largest_of_all=max(known.largest_of_all, float(rows.abs().amax())),
        )

    with observed(linears, look):
        run()
    return found
