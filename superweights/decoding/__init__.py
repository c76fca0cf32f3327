"""Any quantized checkpoint as a stream of weights, each decoded by the library that owns its format."""

from superweights.decoding.decoded import Decoded
from superweights.decoding.opening import FORMATS, Decoding, method_of

__all__ = ["FORMATS", "Decoded", "Decoding", "method_of"]
