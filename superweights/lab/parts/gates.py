"""Gates on the heads' outputs (Qiu et al. 2505.06708): Y' = Y sigmoid(X W), X what attention reads, after its norm.

element: W is d x (h d_h); head: d x h; static: sigmoid of a learned vector, which does not see the input; ns: element
with 0.5 + 0.5 sigmoid. No biases; W starts as every matrix, so that gates start near one half (ns near 3/4).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OutputGate(nn.Module):
    """The gate named `kind` on [B, T, H, d_h]."""

    def __init__(self, kind: str, width: int, heads: int, d_head: int):
        super().__init__()
        self.kind = kind
        self.bias = nn.Parameter(torch.zeros(heads, d_head)) if kind == "static" else None
        numbers = heads if kind == "head" else heads * d_head
        self.proj = None if kind == "static" else nn.Linear(width, numbers, bias=False)

    def reset(self, std: float) -> None:
        """A static gate starts at one half."""
        del std
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, out: Tensor, read: Tensor) -> Tensor:
        """`out` [B, T, H, d_h], gated by `read` [B, T, d]."""
        if self.bias is not None:
            return out * torch.sigmoid(self.bias)
        assert self.proj is not None
        shape = (*out.shape[:-1], -1)
        gate = torch.sigmoid(self.proj(read)).view(shape)
        return out * (0.5 + 0.5 * gate if self.kind == "ns" else gate)
