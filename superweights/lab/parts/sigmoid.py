"""Sigmoid attention: every token is weighed by itself, and nothing makes a row add up to one.

Sources: Gu et al. 2410.10781, section 7 (without a normaliser, and over the sum of the row); Ramapuram et al.
2409.04431 (a bias of -log n). Where we differ: their n is the length of the sequence; ours is the number of tokens
that the query sees, so that a step with a cache gives what a whole pass gives.

Scores are masked with -inf, and every function gives zero there.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8  # of the normaliser, as in Gu et al.'s code


def sigmoid(scores: Tensor) -> Tensor:
    """1 / (1 + exp(-s))."""
    return torch.sigmoid(scores)


def sigmoid_with_gradient(scores: Tensor, weights_grad: Tensor) -> tuple[Tensor, Tensor]:
    """The weights w, and the gradient of the scores, g w (1 - w)."""
    weights = torch.sigmoid(scores)
    return weights, torch.ops.aten.sigmoid_backward(weights_grad, weights)


sigmoid.with_gradient = sigmoid_with_gradient  # type: ignore[attr-defined]


def sigmoid_log(scores: Tensor) -> Tensor:
    """sigmoid(s - log n), n the number of tokens seen."""
    return torch.sigmoid(scores - seen(scores).log())


def sigmoid_normalized(scores: Tensor) -> Tensor:
    """sigmoid(s) over its row's sum: a negative control, it sinks as softmax does."""
    weights = torch.sigmoid(scores)
    return weights / (weights.sum(-1, keepdim=True) + EPSILON)


def seen(scores: Tensor) -> Tensor:
    """How many tokens each query sees, [..., T, 1], at least one."""
    return (scores > -torch.inf).sum(-1, keepdim=True).clamp(min=1).to(scores.dtype)
