"""How often greedy text repeats itself: what a model without a super weight falls into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from superweights.record import Score
from superweights.scoring.error import mean_error
from superweights.scoring.loss import as_variant
from superweights.scoring.predictions import Variant
from superweights.subject import check_windows, device_of

# Runs of so many tokens are compared, as the source does.
_RUN = 4


def repetition_rate(tokens: Sequence[int], run: int = _RUN) -> float:
    """The share of the runs of `run` tokens that occurred before: 0 for text without any, near 1 for one word over
    and over; 0 for fewer tokens than a run.

    Source: seq-rep-n of arXiv 1908.04319, section 6.1.
    """
    runs = [tuple(tokens[start : start + run]) for start in range(len(tokens) - run + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@torch.no_grad()
def greedy_repetition(model: nn.Module | Variant, prompts: Tensor, new_tokens: int) -> Score:
    """The repetition rate of the `new_tokens` likeliest tokens after each of `prompts [n, length]`, mean over them.

    What the prompts themselves say does not count. An end of text is never written, so that all rows are equally long.
    """
    variant = as_variant(model)
    writer: Any = variant.model
    check_windows(writer, prompts, shortest=1)
    prompts = prompts.to(device_of(writer))
    with variant.change():
        written = writer.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=0,
        )
    rates = torch.tensor([repetition_rate(row) for row in written[:, prompts.shape[1] :].tolist()])
    return Score(
        "repetition rate of greedy text", float(rates.mean()), "share", len(rates), mean_error(rates)
    )
