"""Attention of a lab model: projections, positions, the kind of weighing, a gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from superweights.lab.models.config import LabConfig
from superweights.lab.models.linear import Writing
from superweights.lab.models.positions import rotated

FUSED = "superweights_lab"  # the attention implementation that lab models run with; "eager" shows the weights


def eager_attention_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, d_h] and weights [B, H, T, S], by a matrix of scores."""
    groups = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * module.scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


def fused_attention_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Output [B, T, H, d_h], without a matrix of weights."""
    causal = attention_mask is None and query.shape[2] > 1
    groups = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, is_causal=causal, scale=module.scaling
    )
    return out.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(FUSED, fused_attention_forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(FUSED, sdpa_mask)


class LabAttention(nn.Module):
    """Reads [B, T, d], writes [B, T, d]; queries, keys and values go through transformers' attention interface."""

    def __init__(self, config: LabConfig, layer_idx: int):
        super().__init__()
        a = config.architecture
        self.config, self.layer_idx, self.head_dim = config, layer_idx, a.d_head
        self.num_key_value_groups = a.query_heads // a.kv_heads
        self.scaling, self.is_causal = a.d_head**-0.5, True
        self.q_proj = nn.Linear(a.width, a.query_heads * a.d_head, bias=False)
        self.k_proj = nn.Linear(a.width, a.kv_heads * a.d_head, bias=False)
        self.v_proj = nn.Linear(a.width, a.kv_heads * a.d_head, bias=False)
        self.o_proj = Writing(a.heads * a.d_head, a.width)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """What attention writes [B, T, d], and the weights where the implementation has them."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if position_embeddings is not None:
            query, key = rotated(query, position_embeddings), rotated(key, position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or FUSED, eager_attention_forward
        )
        out, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        return self.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights
