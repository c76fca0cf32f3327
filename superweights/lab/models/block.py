"""One block of a lab model: attention and MLP, with the norms where the placement puts them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from superweights.lab.models.attention import LabAttention
from superweights.lab.models.config import LabConfig
from superweights.lab.models.linear import Writing
from superweights.lab.parts.activations import ACTIVATION
from superweights.lab.parts.cpu_kernels import GatedSiLU, fits
from superweights.lab.parts.norms import make_norm


class LabMLP(nn.Module):
    """`down(activation(gate x) * up x)`, or `down(activation(up x))` without a gate; no biases."""

    def __init__(self, config: LabConfig):
        super().__init__()
        a = config.architecture
        self.activation, self.silu = ACTIVATION[a.activation], a.activation == "silu"
        self.gate_proj = nn.Linear(a.width, a.neurons, bias=False) if a.gated else None
        self.up_proj = nn.Linear(a.width, a.neurons, bias=False)
        self.down_proj = Writing(a.neurons, a.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] to [B, T, d]."""
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(x)))
        gate, up = self.gate_proj(x), self.up_proj(x)
        if self.silu and fits(gate, up):
            return self.down_proj(GatedSiLU.apply(gate, up))
        return self.down_proj(self.activation(gate) * up)


class LabBlock(GradientCheckpointingLayer):
    """Attention and MLP around the residual stream [B, T, d], normed where the placement says.

    pre: x + f(norm(x)); post: norm(x + f(x)); sandwich: x + norm(f(norm(x))); op: x + beta f(x), with one LayerNorm
    before the first attention (He et al. 2405.19279). A norm that a placement does not have is None.
    """

    def __init__(self, config: LabConfig, layer_idx: int):
        super().__init__()
        a = config.architecture
        self.self_attn = LabAttention(config, layer_idx)
        self.mlp = LabMLP(config)
        self.beta = a.beta
        before, after = a.placement in ("pre", "sandwich"), a.placement in ("post", "sandwich")
        factor = (layer_idx + 1) ** -0.5 if a.norm_scaling else 1.0

        def norm(wanted: bool, factor: float = 1.0) -> nn.Module | None:
            return make_norm(a.norm, a.width, a.norm_epsilon, factor) if wanted else None

        self.input_layernorm = norm(before, factor)
        self.post_attention_layernorm = norm(before, factor)
        self.attention_norm = norm(after)
        self.mlp_norm = norm(after)
        self.post = a.placement == "post"
        if a.placement == "op" and layer_idx == 0:
            self.input_layernorm = make_norm("layer", a.width, a.norm_epsilon)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """The residual stream after the block."""
        written, _ = self.self_attn(_normed(self.input_layernorm, hidden_states), **kwargs)
        hidden_states = self._added(hidden_states, written, self.attention_norm)
        written = self.mlp(_normed(self.post_attention_layernorm, hidden_states))
        return self._added(hidden_states, written, self.mlp_norm)

    def _added(self, stream: Tensor, written: Tensor, norm: nn.Module | None) -> Tensor:
        """The stream with what a sub-layer wrote."""
        if self.post:
            return _normed(norm, stream + written)
        written = _normed(norm, written)
        return stream + (written if self.beta == 1 else self.beta * written)


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)
