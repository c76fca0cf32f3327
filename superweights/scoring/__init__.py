"""Scores: a model and a text in, numbers with their errors out.

>>> import torch
>>> print(loss_change(torch.tensor([3.0, 3.2]), torch.tensor([4.0, 4.4])))
1.1 ± 0.1 nats per token
"""

from superweights.scoring.compare import Comparison, compare, compare_all, kl_and_agreement
from superweights.scoring.control import Matched, match_damage
from superweights.scoring.generate import Continuation, continue_beside
from superweights.scoring.loss import (
    bits_per_byte,
    loss_change,
    loss_per_window,
    perplexity,
    perplexity_of,
    token_losses,
)
from superweights.scoring.predictions import Variant
from superweights.scoring.shift import STOP_WORDS, TokenChange, TokenShift, token_shift
from superweights.scoring.words import LastWords, predict_last_words

__all__ = [
    "STOP_WORDS",
    "Comparison",
    "Continuation",
    "LastWords",
    "Matched",
    "TokenChange",
    "TokenShift",
    "Variant",
    "bits_per_byte",
    "compare",
    "compare_all",
    "continue_beside",
    "kl_and_agreement",
    "loss_change",
    "loss_per_window",
    "match_damage",
    "perplexity",
    "perplexity_of",
    "predict_last_words",
    "token_losses",
    "token_shift",
]
