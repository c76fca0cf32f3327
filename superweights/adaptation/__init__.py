"""Adaptation: experts that turn a model's singular values, trained, mixed, chosen, written, and looked into.

>>> import torch
>>> factors = decompose(torch.diag(torch.tensor([3.0, 2.0])))
>>> factors.delta(torch.tensor([1.0, 1.5])).tolist()
[[0.0, 0.0], [0.0, 1.0]]
"""

from superweights.adaptation.applying import turned
from superweights.adaptation.bench import ExpertBench, benched
from superweights.adaptation.cache import decompose_streamed, decompositions
from superweights.adaptation.consequences import Consequences, consequences
from superweights.adaptation.dispatch import OTHER, Answer, Choice, Experts, classification_examples
from superweights.adaptation.drift import Drift, drift
from superweights.adaptation.evolving import Found, Search, evolve, mix_by_shots
from superweights.adaptation.expert import (
    Expert,
    combined,
    load_expert,
    load_experts,
    random_like,
    save_expert,
    shuffled,
)
from superweights.adaptation.factors import Factors, decompose
from superweights.adaptation.learners import LowRank, Singular, Sparse, lora_like
from superweights.adaptation.manner import Manner
from superweights.adaptation.matrices import Matrix, matrices_of
from superweights.adaptation.merging import merge
from superweights.adaptation.peft_files import write_lora, write_psoft, write_supertuning
from superweights.adaptation.speaking import Reader, complete, rewarded
from superweights.adaptation.supports import support
from superweights.adaptation.tasks import Example, Task, read_task, reward_named
from superweights.adaptation.trained import Trained
from superweights.adaptation.training import Training

__all__ = [
    "OTHER",
    "Answer",
    "Choice",
    "Consequences",
    "Drift",
    "Example",
    "Expert",
    "ExpertBench",
    "Experts",
    "Factors",
    "Found",
    "LowRank",
    "Manner",
    "Matrix",
    "Reader",
    "Search",
    "Singular",
    "Sparse",
    "Task",
    "Trained",
    "Training",
    "benched",
    "classification_examples",
    "combined",
    "complete",
    "consequences",
    "decompose",
    "decompose_streamed",
    "decompositions",
    "drift",
    "evolve",
    "load_expert",
    "load_experts",
    "lora_like",
    "matrices_of",
    "merge",
    "mix_by_shots",
    "random_like",
    "read_task",
    "reward_named",
    "rewarded",
    "save_expert",
    "shuffled",
    "support",
    "turned",
    "write_lora",
    "write_psoft",
    "write_supertuning",
]
