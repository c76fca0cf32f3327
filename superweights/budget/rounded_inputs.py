"""What rounding the inputs of linear layers costs: each way of doing it beside the model as it is, on one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.findings.activations import Activations, HeldInput, InputPlace, RoundedLayer, RoundedRow
from superweights.progress import Progress, labelled, silent
from superweights.quantization import (
    INT8_WEIGHTS,
    ActivationScheme,
    Hold,
    Rounding,
    Scheme,
    Smooth,
    activation_report,
    calibrate_all,
)
from superweights.quantization.activations import RoundedWeight
from superweights.quantization.calibration import Calibration
from superweights.record import Score
from superweights.scoring import Comparison, Variant, compare_all
from superweights.scoring.loss import check_head
from superweights.subject import Reading
from superweights.wording import counted

# What is held out by default, in root mean squares of a token or of a sequence. Chosen on embedded prose
# (benchmarks/activations.py choose), reported on other text in docs/activations.md.
HELD = {"token": 8.0, "tensor": 5.0, "static": 5.0}
CLIPPED = 20.0
SCALES = tuple(HELD)
WEIGHTS = {"int8": INT8_WEIGHTS, "int4": Scheme("int4", fit="centred"), "none": None}
_CALIBRATION = 8
# The layers are told about on so many windows.
_LOOKED_AT = 2


@dataclass(frozen=True)
class Ways:
    """Which ways of rounding are tried: every scale, each plain, with inputs held out, clipped, and smoothed."""

    scales: Sequence[str] = SCALES
    """What shares a scale: `token`, `tensor`, `static` (calibrated)."""
    weights: str = "int8"
    """How the weights are rounded meanwhile: `int8` per channel, `int4` in groups of 64, or `none`."""
    bits: int = 8
    """Bits of a rounded input."""
    held: float | None = None
    """Hold out beyond so many root mean squares; None: what suits each scale."""
    alpha: float = 0.5
    """SmoothQuant's share of the difficulty that moves into the weights."""
    calibrate_on: Path | str | None = None
    """The text that static limits and SmoothQuant come from; None: English prose that Python brings along."""
    layers: int = 0
    """So many layers that gain most are told about, for each scale."""

    def schemes(self) -> list[tuple[str, str, ActivationScheme]]:
        """Scale, way and scheme of each row. Raises `SuperweightsError` for one that does not exist."""
        for given, allowed in ((self.weights, tuple(WEIGHTS)), *((scale, SCALES) for scale in self.scales)):
            if given not in allowed:
                raise SuperweightsError(
                    f"There is no {given!r} here.", hint=f"choose one of: {', '.join(allowed)}."
                )
        return [row for scale in dict.fromkeys(self.scales) for row in self._of(scale)]

    def _of(self, scale: Any) -> list[tuple[str, str, ActivationScheme]]:
        plain = ActivationScheme(self.bits, scale, weights=WEIGHTS[self.weights])
        amount = HELD[scale] if self.held is None else self.held
        hold = Hold("deviations", amount, "token" if scale == "token" else "tensor")
        return [
            (scale, "plain", plain),
            (scale, f"held beyond {amount:g}", replace(plain, hold=hold)),
            (scale, f"clipped at {CLIPPED:g}", replace(plain, clip=CLIPPED)),
            (scale, f"SmoothQuant {self.alpha:g}", replace(plain, smooth=Smooth(self.alpha))),
        ]


def round_inputs(
    model: nn.Module,
    tokenizer: Any,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    ways: Ways = Ways(),
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Activations:
    """What `model` scores on the text, as it is and with the inputs of its linear layers rounded in each of `ways`.

    A calibration text that is the text itself is read behind what is scored. Raises `SuperweightsError` for ways that
    there are none of, and as `Reading.cut`.
    """
    schemes = ways.schemes()
    trial = _Trial(model, tokenizer, reading, ways, seed, progress)
    base, rows = trial.rows(schemes)
    layers = tuple(layer for each in schemes for layer in trial.layers(*each))
    return Activations(trial.conditions, base, rows, layers)


# What shares a scale, how it is rounded in words, and the scheme.
_Row = tuple[str, str, ActivationScheme]


class _Trial:
    """One model, one text, several ways of rounding."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, reading: Reading, ways: Ways, seed: int, progress: Progress
    ):
        check_head(model)
        self._model, self._reading, self._ways = model, reading, ways
        self._seed, self._progress = seed, progress
        self._windows = reading.cut(tokenizer)
        other = replace(reading, text=ways.calibrate_on)
        self._calibrating = _behind(reading, other, tokenizer)
        self._calibrations: dict[tuple[str, str], Calibration] = {}
        text = other.read()
        self.conditions = {
            **reading.conditions(tokenizer),
            "calibrated_on": text.name,
            "calibrated_on_sha256": text.sha256,
            "windows": len(self._windows),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
        }

    def rows(self, schemes: Sequence[_Row]) -> tuple[Score, tuple[RoundedRow, ...]]:
        """The model's own score, and its scores under each of `schemes`: it runs once for all of them."""
        asked = [each for each in schemes if each[2].calibrated]
        found = calibrate_all(
            self._model, self._calibrating, [scheme for *_, scheme in asked], progress=self._progress
        )
        self._calibrations = {(s, w): each for (s, w, _), each in zip(asked, found, strict=True)}
        shared: dict[Any, dict[str, RoundedWeight]] = {}
        applied = [self._rounding(each, shared) for each in schemes]
        compared = compare_all(
            self._model,
            [Variant(self._model, each.applied) for each in applied],
            self._windows,
            batch_size=self._reading.batch_size,
            seed=self._seed,
            progress=labelled(self._progress, counted(len(schemes), "way")),
        )
        base = compared[0].base
        assert base is not None, "a model that predicts was asked for"
        return base, tuple(map(_row, schemes, applied, compared))

    def _rounding(self, row: _Row, shared: dict[Any, dict[str, RoundedWeight]]) -> Rounding:
        """The model under one scheme; weights that are rounded alike are kept once."""
        scale, way, scheme = row
        calibration = self._calibrations.get((scale, way))
        smoothing = None if calibration is None or scheme.smooth is None else calibration.smoothing
        weights = shared.setdefault((scheme.weights, scheme.skip, id(smoothing)), {})
        return Rounding(self._model, scheme, calibration, weights=weights)

    def layers(self, scale: str, way: str, scheme: ActivationScheme) -> list[RoundedLayer]:
        """The layers that gain most where `scheme` holds something out."""
        if not self._ways.layers or scheme.hold.rule == "none":
            return []
        reports = activation_report(
            self._model,
            self._windows[:_LOOKED_AT],
            scheme,
            self._calibrations.get((scale, way)),
            progress=labelled(self._progress, f"{scale}, {way}"),
        )
        gain = sorted(reports, key=lambda one: one.error_held - one.error_plain)[: self._ways.layers]
        return [
            RoundedLayer(
                scale,
                one.module,
                one.scalars,
                one.held,
                tuple(
                    HeldInput(InputPlace(**asdict(each.place)), each.value, each.share)
                    for each in one.examples
                ),
                one.error_plain,
                one.error_held,
                one.share,
            )
            for one in gain
        ]


def _row(row: _Row, applied: Rounding, found: Comparison) -> RoundedRow:
    scale, way, scheme = row
    assert found.other is not None, "a model that predicts was asked for"
    assert found.kl is not None, "likewise"
    scores = found.other, found.loss, found.kl, found.agreement
    return RoundedRow(scale, way, scheme.to_json(), applied.held_share, *scores, found.other_losses)


def _behind(reading: Reading, other: Reading, tokenizer: Any) -> Tensor:
    """The windows `[8, window]` to calibrate on: of the other text, or of the same text behind what is scored."""
    behind = reading.windows if reading.read().sha256 == other.read().sha256 else 0
    return replace(other, windows=behind + _CALIBRATION).cut(tokenizer)[behind:]
