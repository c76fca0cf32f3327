"""A model rounded block by block, for what its layers read: on text of its own, or on a person's."""

from superweights.reconstruction.calibrating import calibrated
from superweights.reconstruction.rounding import Rounded, rounded_plan
from superweights.reconstruction.samples import Sampling, own_samples, remembered_samples, tokens_of_text

__all__ = [
    "Rounded",
    "Sampling",
    "calibrated",
    "own_samples",
    "remembered_samples",
    "rounded_plan",
    "tokens_of_text",
]
