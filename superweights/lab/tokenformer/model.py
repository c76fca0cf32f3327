"""A TokenFormer as a transformers class: `AutoModelForCausalLM` opens it after `import superweights`.

Source: arXiv 2410.23168, section 3.2, equations 8 to 13; norms without gain in the blocks, one with gain at the end,
tied embedding and rotation of the first quarter of each head as in the released code.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb, eager_attention_forward
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from superweights.lab.models.placing import placed
from superweights.lab.tokenformer.config import TokenFormerConfig
from superweights.lab.tokenformer.pattention import Pattention


def _pattention(config: TokenFormerConfig, kind: str) -> Pattention:
    width = config.hidden_size
    return Pattention(width, width, config.slots[kind], config.tau[kind], config.scoring)


class TokenFormerAttention(nn.Module):
    """Causal attention of tokens to tokens; its queries, keys and values are Pattentions of their own.

    What the heads give leaves as it is: the block's `output`, the fourth Pattention, writes it.
    """

    def __init__(self, config: TokenFormerConfig, layer: int):
        super().__init__()
        self.config, self.layer_idx = config, layer
        self.head_dim, self.scaling = config.head_dim, config.head_dim**-0.5
        self.num_key_value_groups, self.is_causal = 1, True
        self.q, self.k, self.v = (_pattention(config, kind) for kind in "qkv")

    def forward(self, x: Tensor, mask: Tensor | None, rotation: Any, cache: Any, **kwargs: Any) -> Any:
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = apply_rotary_pos_emb(q, k, *rotation)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        attend: Any = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or "eager", eager_attention_forward
        )
        heads, weights = attend(self, q, k, v, mask, scaling=self.scaling, dropout=0.0, **kwargs)
        return heads.flatten(-2), weights


class TokenFormerBlock(GradientCheckpointingLayer):
    """`x + output(attention(norm(x)))`, then `x + ffn(norm(x))`; the whole feed-forward network is one Pattention."""

    def __init__(self, config: TokenFormerConfig, layer: int):
        super().__init__()
        free = {"eps": config.layer_norm_eps, "elementwise_affine": False}
        self.attention_norm = nn.LayerNorm(config.hidden_size, **free)
        self.attention = TokenFormerAttention(config, layer)
        self.output = _pattention(config, "o")
        self.ffn_norm = nn.LayerNorm(config.hidden_size, **free)
        self.ffn = _pattention(config, "ffn")

    def forward(self, x: Tensor, mask: Tensor | None, rotation: Any, cache: Any, **kwargs: Any) -> Tensor:
        heads, _ = self.attention(self.attention_norm(x), mask, rotation, cache, **kwargs)
        x = x + self.output(heads)
        return x + self.ffn(self.ffn_norm(x))


class Rotation(nn.Module):
    """Cosines and sines `[B, T, rotary width]` of the rotary position embedding (halves, as in GPT-NeoX)."""

    def __init__(self, config: TokenFormerConfig):
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", _frequencies(config), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles = (positions[..., None].float() * self.frequencies).repeat(1, 1, 2)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _frequencies(config: Any) -> Tensor:
    """How fast each pair of numbers turns, `[rotary width / 2]`."""
    powers = torch.arange(0, config.rotary_width, 2).float() / max(config.rotary_width, 1)
    return config.rope_theta**-powers


class TokenFormerPreTrainedModel(PreTrainedModel):
    """What transformers is told about both classes."""

    config_class = TokenFormerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TokenFormerBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": TokenFormerBlock, "attentions": TokenFormerAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """Keys and embedding N(0, 0.02²), values N(0, (2 / (layers sqrt(d)))²), as the released code begins."""
        if isinstance(module, Pattention):
            init.normal_(module.key.weight, 0.0, self.config.initializer_range)
            wide = 2 / self.config.num_hidden_layers / math.sqrt(self.config.hidden_size)
            init.normal_(module.value.weight, 0.0, wide)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, 0.0, self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm) and module.weight is not None:
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Rotation):
            init.copy_(module.frequencies, _frequencies(self.config))


class TokenFormerModel(TokenFormerPreTrainedModel):
    """The stack without the head: `last_hidden_state [B, T, d]` after the final norm."""

    def __init__(self, config: TokenFormerConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            TokenFormerBlock(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.rotation = Rotation(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """`[B, T]` ids (or `[B, T, d]` embeddings) to states; arguments as everywhere in transformers."""
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        position_ids, mask, past_key_values = placed(
            self.config, x, attention_mask, position_ids, past_key_values, use_cache
        )
        rotation = self.rotation(position_ids, x.dtype)
        for block in self.layers:
            x = block(x, mask, rotation, past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=past_key_values)


class TokenFormerForCausalLM(TokenFormerPreTrainedModel, GenerationMixin):
    """A TokenFormer that predicts the next token; the head is the embedding unless the config unties them."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: TokenFormerConfig):
        super().__init__(config)
        self.model = TokenFormerModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits `[B, T, V]` (of the last `logits_to_keep` tokens), and the mean loss in nats/token with `labels`."""
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        loss = None if labels is None else self.loss_function(logits, labels, self.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


AutoModelForCausalLM.register(TokenFormerConfig, TokenFormerForCausalLM, exist_ok=True)
