"""What has to be known before a model runs: static limits of each layer's input, and SmoothQuant's scales."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.progress import Progress, labelled, silent
from superweights.quantization.activation_scheme import ActivationScheme, Hold
from superweights.quantization.activations import Limits, held_out
from superweights.quantization.linears import (
    LatestInput,
    Linear,
    largest_along,
    linears_of,
    observed,
    places_in,
    tokens_of,
)
from superweights.quantization.smooth import Smoothing, seeing_channels
from superweights.subject import objective_of
from superweights.subject.facts import forward

# So many tokens are squared at a time.
_ROWS = 128


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


def calibrate(
    model: nn.Module,
    windows: Int[Tensor, "n length"],
    scheme: ActivationScheme,
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Calibration:
    """What `scheme` needs to know of `model`, from token ids `windows [n, length]`. As `calibrate_all`."""
    return calibrate_all(model, windows, [scheme], batch_size=batch_size, progress=progress)[0]


@torch.no_grad()
def calibrate_all(
    model: nn.Module,
    windows: Tensor,
    schemes: Sequence[ActivationScheme],
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> list[Calibration]:
    """What each of `schemes` needs to know of `model`, from token ids `windows [n, length]`: in one pass for all of
    them, and a second where static limits leave out what is held by another rule than deviations, or smoothed.

    The model runs as it is, unrounded. Any text of the model's language will do: embedded prose, or what the
    model writes itself. Source of static limits: the largest |x| seen; of thresholds: the root mean square of all
    tokens, times the rule's amount.
    """
    linears = {scheme: linears_of(model, scheme) for scheme in schemes}
    static = [scheme for scheme in linears if scheme.scale == "static"]
    holding = [scheme for scheme in static if scheme.hold.rule != "none"]
    once = [scheme for scheme in holding if scheme.hold.rule == "deviations" and scheme.smooth is None]
    passes = any(scheme.calibrated for scheme in linears) + (len(once) < len(holding))
    looked = _Passes(model, windows, batch_size, passes, progress or silent)
    tails = _Tails(min((scheme.hold.amount or 0.0 for scheme in once), default=0.0))
    inputs, seen = InputMoments(), {}
    with ExitStack() as stack:
        for scheme in linears:
            if scheme.smooth is not None and (scheme.smooth, scheme.skip) not in seen:
                seeing = seeing_channels(model, linears[scheme], scheme.smooth)
                seen[scheme.smooth, scheme.skip] = stack.enter_context(seeing)
        every = {linear.name: linear for scheme in static for linear in linears[scheme]}
        stack.enter_context(observed(tuple(every.values()), inputs.look))
        stack.enter_context(
            observed(tuple({n.name: n for s in once for n in linears[s]}.values()), tails.look)
        )
        if passes:
            looked.run()
    none, scales = Smoothing(), {key: each.smoothing() for key, each in seen.items()}
    smoothing = {scheme: scales.get((scheme.smooth, scheme.skip), none) for scheme in linears}
    limits = {scheme: inputs.limits(linears[scheme], scheme, smoothing[scheme]) for scheme in static}
    for scheme in once:
        told = tails.limits(limits[scheme])
        if told is not None:
            limits[scheme] = told
            holding.remove(scheme)
    if holding:
        rests = {scheme: _Rests(scheme, smoothing[scheme], limits[scheme]) for scheme in holding}
        with ExitStack() as stack:
            for scheme, rest in rests.items():
                stack.enter_context(observed(linears[scheme], rest.look))
            looked.run()
        limits |= {scheme: rest.limits() for scheme, rest in rests.items()}
    return [Calibration(s, windows.numel(), limits.get(s, {}), smoothing[s]) for s in schemes]


class _Passes:
    """Passes of a model over the same windows, told to a person as one piece of work."""

    def __init__(self, model: nn.Module, windows: Tensor, batch_size: int, passes: int, progress: Progress):
        self._model, self._windows, self._size = model, windows, batch_size
        self._passes, self._done, self._progress = passes, 0, progress

    def run(self) -> None:
        """One more pass."""
        self._done += 1
        self._passes = max(self._passes, self._done)
        label = f"calibrating, pass {self._done} of {self._passes}"
        run_windows(self._model, self._windows, self._size, labelled(self._progress, label))


class InputMoments:
    """The squares and the largest |x| of each channel of each layer's input, summed up over everything that ran."""

    def __init__(self) -> None:
        self._squares: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._latest = LatestInput()
        self._found: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    def look(self, linear: Linear, x: Tensor) -> None:
        """Take in one input of a layer."""
        if self._latest.is_new(x):
            rows, _ = tokens_of(x)
            self._found = _squares(rows), largest_along(rows, 0)
        squares, largest = self._found
        if linear.name in self._squares:
            squares = squares + self._squares[linear.name]
            largest = torch.maximum(largest, self._largest[linear.name])
        self._squares[linear.name], self._largest[linear.name] = squares, largest
        self._tokens[linear.name] = self._tokens.get(linear.name, 0) + x.numel() // x.shape[-1]

    def limits(
        self, linears: Sequence[Linear], scheme: ActivationScheme, smoothing: Smoothing
    ) -> dict[str, Limits]:
        """The limits of each layer as `smoothing` leaves its input, nothing held out yet.

        Raises `SuperweightsError` for a layer that nothing has reached.
        """
        unseen = [linear.name for linear in linears if linear.name not in self._squares]
        if unseen:
            raise SuperweightsError(
                f"Calibration never reached {unseen[0]}"
                + (f" and {len(unseen) - 1} more layers." if len(unseen) > 1 else "."),
                hint="calibrate on more text, or skip those layers.",
            )
        amount = scheme.hold.amount if scheme.hold.rule == "deviations" else None
        found = {}
        for name in (linear.name for linear in linears):
            squares, largest = self._squares[name], self._largest[name]
            top = float(smoothing.divide(name, largest[None]).max())
            scale = smoothing.scales.get(name)
            total = float(
                (squares if scale is None else squares / scale.to(squares.device).double().square()).sum()
            )
            rms = (total / (self._tokens[name] * len(squares))) ** 0.5
            found[name] = Limits(top, top, rms, None if amount is None else amount * rms)
        return found


def _squares(rows: Tensor) -> Tensor:
    """The sum of squares of each channel, `[channels]` float64. A few rows at a time: what is made on the way is freed
    in between small results that stay, and with large pieces the heap would keep most of what it ever held."""
    return torch.stack([some.square().sum(0, dtype=torch.float64) for some in rows.split(_ROWS)]).sum(0)


class _Tails:
    """The large inputs of each layer, so that the largest one below a threshold is known without another look when the
    threshold, a multiple of the root mean square of everything, is known at the end.

    Of each batch all |x| beyond half of `amount` times its own root mean square are kept.
    """

    def __init__(self, amount: float):
        self._amount = amount
        self._kept: dict[str, list[Tensor]] = {}
        self._floors: dict[str, float] = {}
        self._latest = LatestInput()
        self._found: tuple[float, Tensor] = (0.0, torch.empty(0))

    def look(self, linear: Linear, x: Tensor) -> None:
        """Take in one input of a layer."""
        if self._latest.is_new(x):
            rows, _ = tokens_of(x)
            floor = 0.5 * self._amount * float(torch.linalg.vector_norm(rows)) / rows.numel() ** 0.5
            kept = [size[size > floor] for size in (some.abs() for some in rows.split(_ROWS))]
            self._found = floor, torch.cat(kept)
        floor, values = self._found
        self._kept.setdefault(linear.name, []).append(values)
        self._floors[linear.name] = max(floor, self._floors.get(linear.name, 0.0))

    def limits(self, limits: dict[str, Limits]) -> dict[str, Limits] | None:
        """The limits with what is beyond their thresholds left out; None where what was kept does not tell."""
        found = {}
        for name, limit in limits.items():
            values, floor = torch.cat(self._kept[name]), self._floors[name]
            rest = values[values <= (limit.threshold or 0.0)]
            if not len(rest) or float(rest.max()) < floor:
                return None
            found[name] = replace(limit, largest=float(rest.max()))
        return found


class _Rests:
    """The largest |x| of each layer's input that a scheme does not hold out."""

    def __init__(self, scheme: ActivationScheme, smoothing: Smoothing, limits: dict[str, Limits]):
        self._scheme, self._smoothing, self._limits = scheme, smoothing, limits
        self._largest = dict.fromkeys(limits, 0.0)

    def look(self, linear: Linear, x: Tensor) -> None:
        """Take in one input of a layer."""
        rows, sequences = tokens_of(x)
        rows = self._smoothing.divide(linear.name, rows)
        limits, places = self._limits[linear.name], places_in(linear.name, self._scheme)
        mask = held_out(rows, self._scheme.hold, sequences, limits=limits, places=places)
        largest = float(largest_along(rows.masked_fill(mask, 0.0).flatten(), 0))
        self._largest[linear.name] = max(self._largest[linear.name], largest)

    def limits(self) -> dict[str, Limits]:
        """The limits with what is held out left out."""
        return {name: replace(limit, largest=self._largest[name]) for name, limit in self._limits.items()}


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
    # The predictions are not asked for, and the head is a large part of a small model.
    few: Any = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    done = 0
    for batch in windows.split(size):
        rows = batch.to("cpu" if device.type == "meta" else device)
        forward(model, objective_of(model).batch(rows, whole=True), **few)
        done += len(batch)
        if progress is not None:
            progress("windows", done, len(windows))
