"""Softmax with one slot more, to which a head can give what it does not want to give to any token.

    P_ij = exp(s_ij) / (exp(e_i) + sum_k exp(s_ik))

One function; the kinds differ in the extra logit e_i: zero (softmax-1: Miller 2023; Kaul et al. 2410.17174),
a learned number per head (gpt-oss), or the score of a learned key (K bias and KV bias: Gu et al. 2410.10781,
section 7). The slot's value is zero, or learned (KV bias).

Where we differ: the learned key is one per query head; Gu et al. also try one for all heads. As theirs it is not
rotated. The learned logit starts at zero, so that a model starts as softmax-1; transformers draws it at random.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def softmax_with_null(scores: Tensor, null_logit: Tensor | None) -> Tensor:
    """The weights on tokens of `scores` [..., T, S], masked ones at -inf; each row's null weight is what lacks to 1.

    `null_logit` broadcasts to [..., T]; None is no slot, a plain softmax. A row without any token allowed gives
    zeros (torch's softmax gives nan). Computed in the dtype of `scores`: give it float32.

    >>> softmax_with_null(torch.zeros(1, 3), torch.zeros(1))
    tensor([[0.2500, 0.2500, 0.2500]])
    """
    if null_logit is None:
        return torch.ops.aten._safe_softmax(scores, -1)
    null = null_logit.to(scores.dtype)[..., None]
    # softmax-1 does not forgive a shift: the slot is shifted with the scores
    largest = torch.maximum(scores.detach().amax(-1, keepdim=True), null.detach())
    exponentials = (scores - largest).exp()
    return exponentials / (exponentials.sum(-1, keepdim=True) + (null - largest).exp())


class NullSlot(nn.Module):
    """The slot's logit, and its value where it has one. `null` as in `parts.kinds.AttentionKind`."""

    def __init__(self, null: str, heads: int, d_head: int, value: bool):
        super().__init__()
        self.null, self.heads = null, heads
        self.logit = nn.Parameter(torch.zeros(heads)) if null == "logit" else None
        self.key = nn.Parameter(torch.zeros(heads, d_head)) if null == "key" else None
        self.value = nn.Parameter(torch.zeros(heads, d_head)) if value else None

    def reset(self, std: float) -> None:
        """Key and value from N(0, std^2) (Gu et al.: 0.02), the logit zero."""
        for drawn in (self.key, self.value):
            if drawn is not None:
                nn.init.normal_(drawn, 0.0, std)
        if self.logit is not None:
            nn.init.zeros_(self.logit)

    def forward(self, query: Tensor, scaling: float) -> Tensor:
        """The null logit [B or 1, H, T or 1] in float32, for `query` [B, H, T, d_h]."""
        if self.key is not None:
            return torch.einsum("bhtd,hd->bht", query, self.key).float() * scaling
        if self.logit is not None:
            return self.logit.float()[None, :, None]
        return query.new_zeros((1, self.heads, 1), dtype=torch.float32)
