"""One block of a lab model: attention and MLP, with the norms where the placement puts them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from superweights.lab.models.attention import LabAttention
from superweights.lab.models.config import LabConfig
from superweights.lab.models.linear import Writing
from superweights.lab.parts.activations import ACTIVATION
from superweights.lab.parts.norms import make_norm


class LabMLP(nn.Module):
    """`down(activation(gate x) * up x)`, or `down(activation(up x))` without a gate; no biases."""

    def __init__(self, config: LabConfig):
        super().__init__()
        a = config.architecture
        self.activation = ACTIVATION[a.activation]
        self.gate_proj = nn.Linear(a.width, a.neurons, bias=False) if a.gated else None
        self.up_proj = nn.Linear(a.width, a.neurons, bias=False)
        self.down_proj = Writing(a.neurons, a.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] to [B, T, d]."""
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(x)))
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class LabBlock(GradientCheckpointingLayer):
    """Attention and MLP around the residual stream [B, T, d]."""

    def __init__(self, config: LabConfig, layer_idx: int):
        super().__init__()
        a = config.architecture
        self.self_attn = LabAttention(config, layer_idx)
        self.mlp = LabMLP(config)
        self.input_layernorm = make_norm(a.norm, a.width, a.norm_epsilon)
        self.post_attention_layernorm = make_norm(a.norm, a.width, a.norm_epsilon)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """The residual stream after the block."""
        written, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + written
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
