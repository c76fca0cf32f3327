"""Activations of the MLP, the squared and clipped ones of "Bug or Feature^2" (2605.17659) among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

CLIP = 50.0  # of the squared activations' outputs; the authors' own value, from their code


def relu2(x: Tensor) -> Tensor:
    """max(0, x) squared."""
    return functional.relu(x).square()


def relu2_clipped(x: Tensor) -> Tensor:
    """max(0, x) squared, at most `CLIP`; no gradient where it is cut off (x above 7.07)."""
    return relu2(x).clamp(max=CLIP)


def gelu2(x: Tensor) -> Tensor:
    """gelu(x) squared: its negative lobe becomes a bump of at most 0.0289, at x = -0.75."""
    return functional.gelu(x).square()


def gelu2_clipped(x: Tensor) -> Tensor:
    """gelu(x) squared, at most `CLIP`. The paper's code has no clip for it: ours, by analogy."""
    return gelu2(x).clamp(max=CLIP)


ACTIVATION: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu2": relu2,
    "relu2_clipped": relu2_clipped,
    "gelu2": gelu2,
    "gelu2_clipped": gelu2_clipped,
    "tanh": torch.tanh,
}
