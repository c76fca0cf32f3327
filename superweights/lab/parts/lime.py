"""Layer-integrated memory (LIMe, 2502.09245): a layer's keys and values are mixed from all layers up to it.

Layer l has a static matrix R of h_kv x ((l + 1) h_kv); head r reads sum_m R[r, m] K_m and the same mix of values,
over all heads m of all layers up to l. Keys are rotated after the mixing. R starts uniform with variance
1 / ((l + 1) h_kv), and the layer's own columns as the identity; the first layer has none.

Where we differ: key and value matrices start as every other matrix (theirs: Kaiming uniform), and R is not decayed
(their code names a switch that its config lacks). R learns ten times as fast, as theirs (`OptimizerSpec`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Router(nn.Module):
    """The mixing of one layer, `layer` from 1."""

    def __init__(self, layer: int, key_value_heads: int):
        super().__init__()
        self.own = key_value_heads
        self.weight = nn.Parameter(torch.zeros(key_value_heads, (layer + 1) * key_value_heads))

    def reset(self, std: float) -> None:
        """Uniform, its own heads the identity."""
        del std
        bound = (3 / self.weight.shape[1]) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.eye_(self.weight[:, -self.own :])

    def forward(self, held: list[Tensor]) -> Tensor:
        """`held` are the keys (or values) [B, h_kv, T, d_h] of the layers up to this one; their mix, same shape."""
        return torch.einsum("rm,bmtd->brtd", self.weight, torch.cat(held, 1))
