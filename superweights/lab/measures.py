"""What is measured of activations and attention, as plain functions of tensors. Closed forms hold in the tests.

Three kurtoses share the name and are never one column: over the channels of one token (`kurtosis_channel`, Gaussian
3), of the sizes of the channels (`kurtosis_neuron`, 1 where all are alike), of everything pooled (`kurtosis_flat`,
Gaussian 3). So do two readings of "attention on the first token": how often it is largest, and how much it gets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from superweights.interpretability.moments import Moments

# So little in the sum of a row that its weights are none: the row looks nowhere, and has no largest weight.
_NOTHING = 1e-8
_DEAD, _DEAD_TOKENS = 1e-6, 0.95


def kurtosis_channel(x: Tensor) -> Tensor:
    """Over the last axis of `x [..., d]`: the fourth central moment over the squared second, `[...]`, float64.

    Not excess: a Gaussian has 3 (2.98 at d = 256); at most about d. Source: Kaul et al., arXiv 2410.17174, eq. 2.
    """
    return Moments.of(x).kurtosis()


def kurtosis_neuron(squares: Tensor) -> float:
    """How unlike the channels' sizes are, from each channel's mean square over tokens `[d]`: between 1 and d.

    `mean(s^4) / mean(s^2)^2` with `s = sqrt(mean square)`. Source: He et al., arXiv 2405.19279, eq. 1; their code
    returns this minus 1.
    """
    wide = squares.double()
    return (wide.square().mean() / wide.mean().square()).item()


def max_median_ratio(x: Tensor) -> Tensor:
    """Of each token of `x [..., d]` the largest |x| over the median |x|: `[...]`. Source: He et al., their code."""
    sizes = x.abs().float()
    return sizes.amax(-1) / sizes.median(-1).values.clamp_min(torch.finfo(torch.float32).tiny)


def proxy(weights: Tensor) -> Tensor:
    """|A| over its rows' sums: how attention that does not sum to one is read for sink measures, and only for them.

    Source: Gu et al., arXiv 2410.10781, section 5.3 and their code (epsilon 1e-8).
    """
    sizes = weights.abs()
    return sizes / (sizes.sum(-1, keepdim=True) + _NOTHING)


def alpha(weights: Tensor, position: int = 0, tokens: int = 64) -> Tensor:
    """The mean weight that queries which can see `position` put on it, among the first `tokens`: `[B, H]`.

    Source: alpha_k of Gu et al.; the diagonal counts.
    """
    length = min(tokens, weights.shape[-2])
    return weights[:, :, position:length, position].mean(-1, dtype=torch.float32)


def first_argmax(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of the batch: (head, query) pairs whose largest |weight| is on token 0, and pairs that have one.

    Both `[B]`. Query 0 sees only itself and is left out. A row of zeros (softpick, ReLU) has no largest weight: its
    argmax would be index 0 and fake a sink.
    """
    sizes = weights[:, :, 1:].abs()
    largest = sizes.amax(-1)
    looking = largest > 0
    first = looking & (sizes[..., 0] >= largest)
    return first.sum((1, 2)).double(), looking.sum((1, 2)).double()


def uniform_mass(tokens: int) -> float:
    """What attention that makes no difference puts on token 0: the mean of 1 / (i + 1) over queries 1 to T - 1.

    It is also the share of queries whose largest weight would be there by chance. 7.4 % for 48 tokens.
    """
    return sum(1 / (i + 1) for i in range(1, tokens)) / (tokens - 1)


def causal_zeros(weights: Tensor) -> Tensor:
    """The share of exact zeros among the causal entries, of each row of the batch `[B]`; the mask's do not count."""
    tokens = weights.shape[-1]
    below = torch.ones(tokens, tokens, dtype=torch.bool, device=weights.device).tril()
    return (weights[..., below] == 0).double().mean((1, 2))


def dead_tokens(head_out: Tensor) -> Tensor:
    """How many tokens of `head_out [B, T, H, d_h]` each head gives nothing (|x| < 1e-6 everywhere): `[H]`.

    A head is dead where this is 95 % of all tokens. Source: Zuhri et al., arXiv 2504.20966, section 4.
    """
    return (head_out.abs().amax(-1) < _DEAD).sum((0, 1)).double()


def dead_share(dead: Tensor, tokens: int) -> float:
    """The share of heads that are dead, from `dead_tokens` summed over `tokens` tokens."""
    return (dead >= _DEAD_TOKENS * tokens).double().mean().item()


def random_rotation(width: int, seed: int = 0) -> Tensor:
    """A rotation `[width, width]` drawn evenly from all (QR of a Gaussian matrix with the signs put right), float32."""
    drawn = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(drawn)
    return (q * r.diagonal().sign()).float()
