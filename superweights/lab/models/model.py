"""The lab's decoder as transformers classes: `from_pretrained`, `generate`, PEFT and Trainer take it as any other."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.cache_utils import Cache
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from superweights.lab.models.attending import FUSED
from superweights.lab.models.attention import LabAttention
from superweights.lab.models.block import LabBlock
from superweights.lab.models.config import LabConfig
from superweights.lab.models.loss import next_token_loss
from superweights.lab.models.placing import placed
from superweights.lab.models.positions import turns
from superweights.lab.models.starting import start
from superweights.lab.parts.norms import make_norm


class LabPreTrainedModel(PreTrainedModel):
    """What both classes below share with transformers."""

    config: LabConfig
    config_class = LabConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LabBlock"]  # noqa: RUF012 - transformers' own fields
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": LabBlock, "attentions": LabAttention}  # noqa: RUF012

    def get_correct_attn_implementation(
        self, requested_attention: str | None, is_init_check: bool = False
    ) -> str:
        """`FUSED` unless the weights are asked for by `eager`; sdpa is what `FUSED` runs on."""
        if requested_attention in (None, "sdpa"):
            return FUSED
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    def _init_weights(self, module: nn.Module) -> None:
        start(module, self.config.architecture)


class LabModel(LabPreTrainedModel):
    """Embedding, blocks and last norm."""

    def __init__(self, config: LabConfig):
        super().__init__(config)
        a = config.architecture
        self.embed_tokens = nn.Embedding(a.vocabulary, a.width)
        self.layers = nn.ModuleList(LabBlock(config, layer) for layer in range(a.layers))
        self.norm = make_norm(a.norm, a.width, a.norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The residual stream after the last norm, [B, T, d]."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        hidden: Tensor = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cached = use_cache and not self.training
        position_ids, mask, past_key_values = placed(
            self.config, hidden, attention_mask, position_ids, past_key_values, cached
        )
        a = self.config.architecture
        if a.scale_of_embedding != 1:
            hidden = hidden * a.scale_of_embedding
        angles = turns(position_ids, a.d_head, a.rope_theta, hidden.dtype) if a.position == "rope" else None
        memory = [None] * len(self.layers) if a.lime else None
        for block in self.layers:
            hidden = block(
                hidden,
                attention_mask=mask,
                position_embeddings=angles,
                past_key_values=past_key_values,
                memory=memory,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)


class LabForCausalLM(LabPreTrainedModel, GenerationMixin):
    """The decoder with its head.

    With `labels` in training the loss is computed in chunks and `logits` is None (they are never kept);
    in eval mode both are there.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LabConfig):
        super().__init__(config)
        self.model = LabModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V] and, with `labels` [B, T] (-100 is not scored), the mean loss in nats per token."""
        shared = {"num_items_in_batch", "shift_labels"}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{name: value for name, value in kwargs.items() if name not in shared},
        )
        hidden = outputs.last_hidden_state
        loss = logits = None
        if labels is not None or kwargs.get("shift_labels") is not None:
            loss = next_token_loss(hidden, self.lm_head, labels, **kwargs)
        if loss is None or not self.training:
            logits = self.lm_head(slice_logits_to_keep(hidden, logits_to_keep))
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


AutoModel.register(LabConfig, LabModel, exist_ok=True)
AutoModelForCausalLM.register(LabConfig, LabForCausalLM, exist_ok=True)
