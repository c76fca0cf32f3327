"""Which stored tensors are codes, not weights: numbers of eight bits with a scale beside them."""

from __future__ import annotations

from collections.abc import Mapping

from superweights.checkpoint.tensors import TensorInfo

# The names under which quantizers store a scale beside `NAME` or `MODULE.weight`, and that it multiplies.
_BESIDE = ("_scale_inv", "_scale", "_scale_2")
_OF_MODULE = ("scale", "weight_scale", "weight_scale_inv", "qscale_weight", "SCB")
_EIGHT_BITS = ("F8_", "I8", "U8")


def scale_beside(tensors: Mapping[str, TensorInfo], name: str) -> str | None:
    """The tensor that holds the scale of the codes in `name`; None where `name` holds its own values.

    Eight-bit numbers (float8, int8, uint8) beside which a scale stands are codes: a weight is a code times its
    scale. Told from the tensors alone, because some exporters say it in no configuration that a loader reads.
    """
    info = tensors.get(name)
    if info is None or not info.dtype.startswith(_EIGHT_BITS):
        return None
    beside = [name + ending for ending in _BESIDE]
    module, dot, leaf = name.rpartition(".")
    if leaf == "weight":
        beside += [f"{module}{dot}{part}" for part in _OF_MODULE]
    return next((each for each in beside if each in tensors), None)
