"""The two attention functions of lab models: `eager` shows its weights, the other makes no matrix of them.

Both stand in transformers' attention interface; the second is registered with the mask of `sdpa` (without a mask
function of its own, a new name sees the future).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from superweights.lab.parts.blockwise import attend_in_blocks
from superweights.lab.parts.null_kernel import additive, attend_with_null
from superweights.lab.parts.null_slot import softmax_with_null
from superweights.taps.weighing import weighed

FUSED = "superweights_lab"  # the attention implementation that lab models run with


def eager_attention_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, d_h] and weights [B, H, T, S] on tokens, by a matrix of scores."""
    key, value = _one_each(query, key), _one_each(query, value)
    query = _scaled_by_length(module, query, attention_mask, key.shape[2])
    scores = (query @ key.transpose(2, 3)).float() * module.scaling
    mask = additive(attention_mask, scores.dtype)
    if mask is not None:
        scores = scores + mask

    def weigh(scores: Tensor) -> Tensor:
        if module.weigh is not None:
            return module.weigh(scores)
        null = None if module.null is None else module.null(query, module.scaling)
        return softmax_with_null(scores, null)

    weights = weighed(scores, weigh).to(value.dtype)
    out = weights @ value
    if module.null is not None and module.null.value is not None:
        out = out + (1 - weights.sum(-1, keepdim=True)) * module.null.value[:, None]
    return out.transpose(1, 2), weights


def fused_attention_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Output [B, T, H, d_h]; weights only where `output_attentions` asks for them."""
    if kwargs.get("output_attentions"):
        return eager_attention_forward(
            module, query, key, value, _causal(attention_mask, query, key), **kwargs
        )
    key, value = _one_each(query, key), _one_each(query, value)
    query = _scaled_by_length(module, query, attention_mask, key.shape[2])
    causal = attention_mask is None and query.shape[2] > 1
    mask, scaling = attention_mask, module.scaling
    if module.weigh is not None:
        mask = additive(mask, torch.float32)
        out = attend_in_blocks(query, key, value, module.weigh, mask=mask, causal=causal, scaling=scaling)
    elif module.null is not None:
        null, null_value = module.null(query, scaling), module.null.value
        out = attend_with_null(query, key, value, null, null_value, mask=mask, causal=causal, scaling=scaling)
    else:
        # a wider value would cost the kernel: half by half
        parts = value.split(query.shape[-1], dim=-1)
        made = [
            functional.scaled_dot_product_attention(
                query, key, part, attn_mask=mask, is_causal=causal, scale=scaling
            )
            for part in parts
        ]
        out = made[0] if len(made) == 1 else torch.cat(made, -1)
    return out.transpose(1, 2), None


def _one_each(query: Tensor, heads: Tensor) -> Tensor:
    """Key or value heads, one to each query head; the two of a differential pair share one wide value."""
    times = query.shape[1] // heads.shape[1]
    return heads if times == 1 else heads.repeat_interleave(times, 1)


def _causal(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask that a missing one means."""
    tokens, keys = query.shape[2], key.shape[2]
    if mask is not None or tokens == 1:
        return mask
    return torch.ones(tokens, keys, dtype=torch.bool, device=query.device).tril(keys - tokens)[None, None]


def _scaled_by_length(module: Any, query: Tensor, mask: Tensor | None, keys: int) -> Tensor:
    """Queries times a function of how many tokens each sees, where the kind has one."""
    if module.length_scale is None:
        return query
    if mask is None:
        seen = torch.arange(keys - query.shape[2] + 1, keys + 1, device=query.device)[None, None, :, None]
    else:
        keep = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
        seen = keep.sum(-1, keepdim=True)
    return module.length_scale(query, seen)


ALL_ATTENTION_FUNCTIONS.register(FUSED, fused_attention_forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(FUSED, sdpa_mask)
