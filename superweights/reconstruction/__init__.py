"""A model rounded block by block, for what its layers read: on text of its own, or on a person's."""

from superweights.reconstruction.rounding import Rounded, rounded_plan
from superweights.reconstruction.samples import Sampling, own_samples

__all__ = ["Rounded", "Sampling", "own_samples", "rounded_plan"]
