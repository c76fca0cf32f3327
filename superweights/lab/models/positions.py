"""Rotary positions, half against half as in Llama (2104.09864; the pairing of transformers' Llama)."""

from __future__ import annotations

import torch
from torch import Tensor

from superweights.lab.parts.cpu_kernels import Rotate, fits


def turns(position_ids: Tensor, d_head: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles: [B or 1, 1, T, d_h] each."""
    steps = torch.arange(0, d_head, 2, dtype=torch.float32, device=position_ids.device)
    angles = position_ids[:, None, :, None].float() * theta ** (-steps / d_head)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotated(heads: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
    """`heads` [B, H, T, d_h], each turned by its position's angles."""
    cos, sin = position_embeddings
    if fits(heads) and heads.dtype == cos.dtype:
        return Rotate.apply(heads, cos, sin)  # type: ignore[return-value]
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
