"""Bits per byte, multiplications per byte, and where patches end up: what arms of a comparison are told apart by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superweights.lab.byte_latent.model import ByteLatentForCausalLM


@torch.no_grad()
def bits_per_byte(logits_of: Callable[[Tensor], Tensor], rows: Tensor, batch: int = 8) -> float:
    """The mean of -log2 p(byte) over every byte of `rows [R, N]` but each row's first, in bits.

    Special ids in `rows` are read and not scored. A uniform model over 260 ids has log2(260) = 8.022.
    """
    total, count = 0.0, 0
    for part in rows.split(batch):
        logits = logits_of(part)[:, :-1].float()
        target = part[:, 1:]
        scored = target >= 4
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")
        total += float((nats * scored).sum())
        count += int(scored.sum())
    return total / math.log(2) / max(count, 1)


@dataclass(frozen=True)
class Cost:
    """Multiplications of one forward pass for each byte: in the latent transformer, beside it, and together."""

    latent: float
    """In the latent transformer."""
    local: float
    """Beside it: in the local encoder and decoder."""

    @property
    def total(self) -> float:
        return self.latent + self.local


def multiplications_per_byte(model: ByteLatentForCausalLM, n: int, patch: float) -> Cost:
    """The cost for rows of `n` bytes in patches of `patch` bytes on average; look-ups cost nothing.

    Matrices, and attention as 2 x keys x width of each byte or patch (half of it under a causal mask): equations 13 to
    17 of arXiv 2412.09871, counted in multiplications instead of twice that. The entropy model is not counted: it runs
    once over the data.
    """
    inner = model.model
    latent = _matrices(inner.global_transformer) / patch
    config = inner.global_transformer.config
    latent += config.num_hidden_layers * config.hidden_size * (n / patch) / patch
    local = float(model.lm_head.weight.numel())
    window = min(n, model.config.local_attention_window_len or n)
    for stack in (inner.local_encoder, inner.local_decoder):
        blocks = sum(p.numel() for p in stack.layers.parameters() if p.dim() == 2)
        per_patch = stack.patch_embedding_projection.weight.numel() / patch
        local += blocks + per_patch + len(stack.layers) * stack.config.hidden_size * window
        for _ in stack.cross_attn_layers:
            square = stack.config.hidden_size**2
            asked = stack.parts / patch if stack is inner.local_encoder else 1.0
            heard = 1.0 if stack is inner.local_encoder else stack.parts / patch
            local += 2 * square * (asked + heard) + 2 * stack.parts * stack.config.hidden_size
    return Cost(latent, local)


def _matrices(module: nn.Module) -> float:
    return float(sum(p.numel() for p in module.parameters() if p.dim() == 2))


def boundary_f1(found: Tensor, true: Tensor) -> float:
    """How well one mask of starts `[B, N + 1]` agrees with another, but for the two given starts: 1 is the same."""
    a, b = found[:, 2:], true[:, 2:]
    both = int((a & b).sum())
    return 2 * both / max(int(a.sum()) + int(b.sum()), 1)
