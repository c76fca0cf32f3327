"""Rounding weights to few bits, and keeping exactly the few that hold the model up.

`quantize_tensor(weight, Scheme(...), keep=[(507, 1229)])` rounds one tensor; `protection_report` says for each
kept weight what rounding did to it and whether keeping it changed anything. Everything here is data-free.
"""

from superweights.quantize.protect import Protected, protection_report
from superweights.quantize.scheme import Blocks, Clip, Scheme
from superweights.quantize.tensor import Quantized, RoundingError, StoredBits, quantize_tensor, rounding_error

__all__ = [
    "Blocks",
    "Clip",
    "Protected",
    "Quantized",
    "RoundingError",
    "Scheme",
    "StoredBits",
    "protection_report",
    "quantize_tensor",
    "rounding_error",
]
