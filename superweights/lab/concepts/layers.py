"""The blocks of concept models: causal ones, and the denoiser's, which the time steers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class SwiGlu(nn.Module):
    """The feed-forward network; `output_proj` is what `down_proj` is elsewhere."""

    def __init__(self, width: int):
        super().__init__()
        inner = 8 * round(width / 3)
        self.gate_proj, self.up_proj = nn.Linear(width, inner), nn.Linear(width, inner)
        self.output_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    """Multi-head attention with biases; what is read may be another sequence. `mask` is True where a query may look."""

    def __init__(self, width: int, heads: int, rotated: bool = False):
        super().__init__()
        self.heads, self.rotated = heads, rotated
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, read: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        read = x if read is None else read
        q, k, v = (
            p(t).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p, t in ((self.q_proj, x), (self.k_proj, read), (self.v_proj, read))
        )
        if self.rotated:
            q, k = _turned(q), _turned(k)
        causal = mask is None
        heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.o_proj(heads.transpose(1, 2).flatten(-2))


class CausalBlock(nn.Module):
    """Pre-norm attention and SwiGLU; causal and rotated unless a mask says more."""

    def __init__(self, width: int, heads: int, rotated: bool = True):
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention, self.ffn = Attention(width, heads, rotated), SwiGlu(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.ffn(self.ffn_norm(x))


class TimestepEncoder(nn.Module):
    """Steps `[...]` to `[..., d]`: 256 sines and cosines, then a small network."""

    def __init__(self, width: int, features: int = 256):
        super().__init__()
        self.features = features
        self.network = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = self.features // 2
        speed = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
        angle = t[..., None].float() * speed
        return self.network(torch.cat([angle.cos(), angle.sin()], -1))


class DenoiserLayer(nn.Module):
    """Self (each position alone), context, feed-forward; each shifted, scaled and gated by the time.

    Self-attention masked to its diagonal gives every position its own value with weight 1: it is written as the two
    products that remain of it. `adaln` begins at zero, so the layer begins as the identity.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(3))
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.context_attention, self.ffn = Attention(width, heads), SwiGlu(width)
        self.adaln = nn.Sequential(nn.SiLU(), nn.Linear(width, 9 * width))
        nn.init.zeros_(self.adaln[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.adaln[1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        """`x [B, S, d]`, `context [B, S' + 1, d]` (zero vector first), `time [B, S, d]`, `mask [.., S, S' + 1]`."""
        parts = self.adaln(time).unflatten(-1, (3, 3, -1)).unbind(-3)
        inner = (
            lambda h: self.o_proj(self.v_proj(h)),
            lambda h: self.context_attention(h, context, mask),
            self.ffn,
        )
        for norm, steering, block in zip(self.norms, parts, inner, strict=True):
            shift, scale, gate = steering.unbind(-2)
            x = x + gate * block((1 + scale) * norm(x) + shift)
        return x


def _turned(x: Tensor) -> Tensor:
    """`[B, H, S, d_h]` rotated by position, halves together."""
    half = x.shape[-1] // 2
    speed = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * speed
    a, b = x[..., :half], x[..., half : 2 * half]
    turned = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
    return torch.cat([turned, x[..., 2 * half :]], -1)
