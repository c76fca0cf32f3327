"""Attention of a lab model: projections, positions, the kind of weighing, a gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from superweights.lab.architecture import Architecture
from superweights.lab.models.attending import FUSED, eager_attention_forward
from superweights.lab.models.config import LabConfig
from superweights.lab.models.linear import Writing
from superweights.lab.models.positions import rotated
from superweights.lab.parts.differential import Difference, DifferenceV2
from superweights.lab.parts.gates import OutputGate
from superweights.lab.parts.kernels import EluMap, MLPMap
from superweights.lab.parts.lime import Router
from superweights.lab.parts.norms import RMSNorm
from superweights.lab.parts.null_slot import NullSlot
from superweights.lab.parts.rectified import LengthScale
from superweights.lab.parts.weighing import WEIGH


class LabAttention(nn.Module):
    """Reads [B, T, d], writes [B, T, d]; queries, keys and values go through transformers' attention interface.

    What a kind does not have is None. `weigh` is the function of scores of a kind that is not a softmax.
    """

    def __init__(self, config: LabConfig, layer_idx: int):
        super().__init__()
        a = config.architecture
        self.config, self.layer_idx, self.head_dim = config, layer_idx, a.d_head
        self.num_key_value_groups = a.query_heads // a.kv_heads
        self.scaling, self.is_causal = a.d_head**-0.5, True
        self.value_width = 2 * a.d_head if a.attention == "differential" else a.d_head
        self.weigh = WEIGH.get(a.attention)
        self.q_proj = nn.Linear(a.width, a.query_heads * a.d_head, bias=False)
        self.k_proj = nn.Linear(a.width, a.kv_heads * a.d_head, bias=False)
        self.v_proj = nn.Linear(a.width, a.kv_heads * a.d_head, bias=False)
        self.o_proj = Writing(a.heads * a.d_head, a.width)
        self.q_norm = RMSNorm(a.d_head, a.norm_epsilon) if a.qk_norm else None
        self.k_norm = RMSNorm(a.d_head, a.norm_epsilon) if a.qk_norm else None
        self.router = Router(layer_idx, a.kv_heads) if a.lime and layer_idx else None
        self.feature_map = _feature_map(a)
        self.length_scale = (
            LengthScale(a.query_heads, a.context) if a.attention == "softpick_scaled" else None
        )
        self.null = _null_slot(a)
        self.value_bias = nn.Parameter(torch.zeros(a.heads, a.d_head)) if a.attention == "v_bias" else None
        self.difference = _difference(a, layer_idx)
        self.gate = None if a.gate == "none" else OutputGate(a.gate, a.width, a.heads, a.d_head)

    def reset(self, std: float) -> None:
        """The bias of values starts as Gu et al. start theirs."""
        if self.value_bias is not None:
            nn.init.normal_(self.value_bias, 0.0, std)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        memory: list[Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """What attention writes [B, T, d], and the weights [B, H, T, S] that met values, where they are made."""
        query, key, value = self._heads(hidden_states, position_embeddings, memory)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or FUSED, eager_attention_forward
        )
        out, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        if self.difference is not None:
            out = self.difference(out, hidden_states)
            weights = None if weights is None else self.difference.of_weights(weights, hidden_states)
        if self.value_bias is not None:
            out = out + self.value_bias
        if self.gate is not None:
            out = self.gate(out, hidden_states)
        return self.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights

    def _heads(
        self, x: Tensor, position_embeddings: tuple[Tensor, Tensor] | None, memory: list[Any] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H or H_kv, T, d_h] as they go into the interface and the cache."""
        shape = (*x.shape[:-1], -1, self.head_dim)
        query, key = self.q_proj(x).view(shape), self.k_proj(x).view(shape)
        value = self.v_proj(x).view(*x.shape[:-1], -1, self.value_width).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        if memory is not None:
            # by its own place, so that a block that is run again (checkpointing) does not stand there twice
            memory[self.layer_idx] = (key, value)
            if self.router is not None:
                key, value = (
                    self.router([held[part] for held in memory[: self.layer_idx + 1]]) for part in (0, 1)
                )
        if position_embeddings is not None:
            query, key = rotated(query, position_embeddings), rotated(key, position_embeddings)
        if self.feature_map is not None:
            query, key = self.feature_map(query), self.feature_map(key)
        return query, key, value


def _feature_map(a: Architecture) -> nn.Module | None:
    if a.attention == "elu_kernel":
        return EluMap()
    return MLPMap(a.d_head) if a.attention.startswith("mlp_kernel") else None


def _null_slot(a: Architecture) -> NullSlot | None:
    if a.kind.null == "none":
        return None
    return NullSlot(a.kind.null, a.query_heads, a.d_head, a.kind.null_value or a.null_value)


def _difference(a: Architecture, layer: int) -> Difference | DifferenceV2 | None:
    if a.attention == "differential":
        return Difference(a.d_head, layer)
    return DifferenceV2(a.width, a.heads) if a.attention == "differential_v2" else None
