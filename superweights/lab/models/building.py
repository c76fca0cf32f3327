"""`build`: a lab model from an architecture and a seed."""

from __future__ import annotations

from transformers.modeling_utils import PreTrainedModel

from superweights.lab.architecture import Architecture
from superweights.lab.models.config import LabConfig
from superweights.lab.models.model import LabForCausalLM
from superweights.lab.models.starting import start_by_name


def build(architecture: Architecture, seed: int) -> PreTrainedModel:
    """A model of `architecture` in float32, in training mode, the same on every machine for the same seed.

    Each module draws its weights from a generator of its own, seeded by `seed` and the module's name: two
    architectures that differ in one part start with the same weights in all the others.

    >>> from superweights.lab.architecture import Architecture
    >>> build(Architecture(), seed=0).num_parameters() < 200_000
    True
    """
    model = LabForCausalLM(LabConfig.of(architecture))
    start_by_name(model, architecture, seed)
    model.tie_weights()
    return model.train()
