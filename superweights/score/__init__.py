"""Scores: a model and a text in, numbers with their errors out.

>>> import torch
>>> from superweights.score import loss_change
>>> print(loss_change(torch.tensor([3.0, 3.2]), torch.tensor([4.0, 4.4])))
1.1 ± 0.1 nats per token
"""

from superweights.score.compare import Comparison, compare, kl_and_agreement
from superweights.score.head import Variant
from superweights.score.loss import (
    bits_per_byte,
    loss_change,
    loss_per_window,
    perplexity,
    perplexity_of,
    token_losses,
)

__all__ = [
    "Comparison",
    "Variant",
    "bits_per_byte",
    "compare",
    "kl_and_agreement",
    "loss_change",
    "loss_per_window",
    "perplexity",
    "perplexity_of",
    "token_losses",
]
