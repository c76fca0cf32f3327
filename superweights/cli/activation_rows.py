"""What `activations` measures: one model on one text, each way of rounding its inputs beside the model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superweights.errors import SuperweightsError
from superweights.progress import Progress, labelled
from superweights.subject import Reading, Source

if TYPE_CHECKING:
    from torch import Tensor, nn

    from superweights.quantization import ActivationScheme
    from superweights.record import Record

# What is held out by default, in root mean squares of a token or of a sequence. Chosen on embedded prose
# (benchmarks/activations.py choose), reported on other text in docs/activations.md.
HELD = {"token": 8.0, "tensor": 5.0, "static": 5.0}
CLIPPED = 20.0
SCALES = tuple(HELD)
WEIGHTS = ("int8", "int4", "none")
_CALIBRATION = 8


@dataclass(frozen=True)
class Rounding:
    """Which ways of rounding stand in the table: the scales, and each with what held out."""

    scales: Sequence[str] = SCALES
    weights: str = "int8"
    bits: int = 8
    held: float | None = None
    alpha: float = 0.5
    calibrate_on: Path | None = None
    layers: int = 0


def measure_activations(
    source: Source, reading: Reading, rounding: Rounding, *, seed: int = 0, progress: Progress
) -> Record:
    """The record of the model's scores, as it is and under each way of rounding."""
    from superweights.checkpoint import open_checkpoint
    from superweights.record import Record, Score, versions
    from superweights.stream import streaming
    from superweights.subject.text import embedded_prose, read_text

    schemes = schemes_of(rounding)
    text = read_text(reading.text) if reading.text is not None else embedded_prose()
    other = read_text(rounding.calibrate_on) if rounding.calibrate_on is not None else embedded_prose()
    progress("opening", 0, 1)
    opened = {"allow_pickle": source.allow_pickle, "trust_remote_code": source.trust_remote_code}
    with (
        open_checkpoint(source.name, **opened) as checkpoint,
        streaming(checkpoint, dtype=source.dtype, device=source.device) as model,
    ):
        rows, calibrating = _windows(checkpoint, text, other, reading)
        found = _scores(model, rows, calibrating, schemes, rounding.layers, reading, seed, progress)
        conditions = {
            "text": text.name,
            "text_sha256": text.sha256,
            "calibrated_on": other.name,
            "calibrated_on_sha256": other.sha256,
            "window": reading.window,
            "windows": len(rows),
            "bos": reading.bos,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
        }
        inputs = {"model": checkpoint.name, "revision": checkpoint.revision, "text_sha256": text.sha256}
    base = Score(**found["base"])
    findings = {"conditions": conditions, **found}
    return Record("activations", inputs, versions(), seed, (base,), findings)


def schemes_of(rounding: Rounding) -> list[tuple[str, str, ActivationScheme]]:
    """Scale, way and scheme of each row of the table."""
    from superweights.quantization import INT8_WEIGHTS, ActivationScheme, Hold, Scheme, Smooth

    for given, allowed in ((rounding.weights, WEIGHTS), *((scale, SCALES) for scale in rounding.scales)):
        if given not in allowed:
            raise SuperweightsError(
                f"There is no {given!r} here.", hint=f"choose one of: {', '.join(allowed)}."
            )
    weights = {"int8": INT8_WEIGHTS, "int4": Scheme("int4", fit="centred"), "none": None}[rounding.weights]
    rows = []
    for scale in dict.fromkeys(rounding.scales):
        plain = ActivationScheme(rounding.bits, scale, weights=weights)
        amount = HELD[scale] if rounding.held is None else rounding.held
        hold = Hold("deviations", amount, "token" if scale == "token" else "tensor")
        rows += [
            (scale, "plain", plain),
            (scale, f"held beyond {amount:g}", replace(plain, hold=hold)),
            (scale, f"clipped at {CLIPPED:g}", replace(plain, clip=CLIPPED)),
            (scale, f"SmoothQuant {rounding.alpha:g}", replace(plain, smooth=Smooth(rounding.alpha))),
        ]
    return rows


def _windows(checkpoint, text, other, reading: Reading) -> tuple[Tensor, Tensor]:
    """The windows that are scored, and those of the other text (or of the same, behind them) to calibrate on."""
    from superweights.subject.text import windows

    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        raise SuperweightsError(
            f"{checkpoint.name} has no tokenizer.", hint="put its tokenizer.json beside the weights."
        )
    rows = windows(tokenizer, text, reading.window, reading.windows, bos=reading.bos)
    behind = len(rows) if text.sha256 == other.sha256 else 0
    return rows, windows(tokenizer, other, reading.window, behind + _CALIBRATION, bos=reading.bos)[behind:]


def _scores(
    model: nn.Module,
    rows: Tensor,
    calibrating: Tensor,
    schemes: list[tuple[str, str, ActivationScheme]],
    layers: int,
    reading: Reading,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """The model's perplexity, and every scheme's difference from it, row by row."""
    from superweights.quantization import Rounding as Applied
    from superweights.quantization import activation_report, calibrate
    from superweights.scoring import Variant, compare

    found: dict[str, Any] = {"rows": [], "layers": []}
    for scale, way, scheme in schemes:
        label = f"{scale}, {way}"
        report = _reporter(progress, label)
        calibration = calibrate(model, calibrating, scheme, progress=report) if scheme.calibrated else None
        applied = Applied(model, scheme, calibration)
        each = compare(
            model,
            Variant(model, applied.applied),
            rows,
            batch_size=reading.batch_size,
            seed=seed,
            progress=report,
        )
        applied.release()
        found["base"] = asdict(each.base)
        numbers = {key: asdict(getattr(each, key)) for key in ("loss", "kl", "agreement")}
        row = {"scale": scale, "way": way, "scheme": scheme.to_json(), "held_share": applied.held_share}
        found["rows"].append(
            {**row, "perplexity": asdict(each.other), **numbers, "losses": each.other_losses}
        )
        if layers and scheme.hold.rule != "none":
            reports = activation_report(model, rows[:2], scheme, calibration, progress=report)
            gain = sorted(reports, key=lambda one: one.error_held - one.error_plain)[:layers]
            found["layers"] += [{"scale": scale, **asdict(one), "share": one.share} for one in gain]
    return found


def _reporter(progress: Progress, label: str) -> Progress:
    return labelled(progress, label)
