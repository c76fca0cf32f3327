"""Rounding weights to few bits, and keeping exactly the few that hold the model up.

`quantize_tensor(weight, Scheme(...), keep=[(507, 1229)])` rounds one tensor; `protection_report` says for each
kept weight what rounding did to it and whether keeping it changed anything. That part is data-free.
`rounding_activations(model, ActivationScheme(...))` rounds the inputs of linear layers, super activations held out.
"""

from superweights.quantization.activation_scheme import (
    INT8_WEIGHTS,
    ActivationScheme,
    HeldPlace,
    Hold,
    Smooth,
)
from superweights.quantization.calibration import Calibration, calibrate, calibrate_all
from superweights.quantization.held_places import (
    Coverage,
    HeldScalar,
    LayerReport,
    activation_report,
    coverage,
    locate,
)
from superweights.quantization.protect import Protected, protection_report
from superweights.quantization.rounding import Rounding, rounding_activations
from superweights.quantization.scheme import Blocks, Clip, Scheme
from superweights.quantization.tensor import (
    Quantized,
    RoundingError,
    StoredBits,
    quantize_tensor,
    rounding_error,
)

__all__ = [
    "INT8_WEIGHTS",
    "ActivationScheme",
    "Blocks",
    "Calibration",
    "Clip",
    "Coverage",
    "HeldPlace",
    "HeldScalar",
    "Hold",
    "LayerReport",
    "Protected",
    "Quantized",
    "Rounding",
    "RoundingError",
    "Scheme",
    "Smooth",
    "StoredBits",
    "activation_report",
    "calibrate",
    "calibrate_all",
    "coverage",
    "locate",
    "protection_report",
    "quantize_tensor",
    "rounding_activations",
    "rounding_error",
]
