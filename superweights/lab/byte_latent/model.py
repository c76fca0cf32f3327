"""A Byte Latent Transformer as a transformers class, with the weights of transformers' own and faster arithmetic.

Source: arXiv 2412.09871, section 3; where paper and released code differ the config says which is meant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.config import ByteLatentConfig
from superweights.lab.byte_latent.entropy import EntropyModel, theta_of
from superweights.lab.byte_latent.hashing import ngram_places
from superweights.lab.byte_latent.layers import (
    Block,
    BytesReadPatch,
    PatchesReadBytes,
    SelfAttention,
    pooled,
    turns,
)
from superweights.lab.byte_latent.norming import Norm
from superweights.lab.byte_latent.patching import Patches, check_patches, from_lengths


class Stack(nn.Module):
    """Blocks one after another, with the rotations that they share; `window` is how far back bytes see."""

    def __init__(self, config: Any, whole: ByteLatentConfig, window: int | None):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            Block(config, whole, layer, window) for layer in range(config.num_hidden_layers)
        )

    def turns(self, n: int, device: torch.device) -> Tensor:
        """The rotations of positions 0 to n - 1."""
        width = self.config.hidden_size // self.config.num_attention_heads
        return turns(torch.arange(n, device=device), width, theta_of(self.config))


class LocalEncoder(Stack):
    """Bytes `[B, N, D]` to byte states `[B, N, D]` and patches `[B, P, k D]`."""

    def __init__(self, config: Any, whole: ByteLatentConfig):
        super().__init__(config, whole, whole.local_attention_window_len)
        self.parts, self.carried = config.cross_attn_k, whole.encoder_patches == "paper"
        residual = whole.cross_attention_residual
        d = config.hidden_size
        self.patch_embedding_projection = nn.Linear(d, d * self.parts, bias=False)
        self.embed_tokens = nn.Embedding(config.vocab_size, d)
        every = config.num_hidden_layers if config.cross_attn_all_layers else 1
        self.cross_attn_layers = nn.ModuleList(PatchesReadBytes(config, residual) for _ in range(every))

    def forward(self, x: Tensor, patches: Patches) -> tuple[Tensor, Tensor]:
        turned, held = self.turns(x.shape[1], x.device), None
        skipped = len(self.layers) - len(self.cross_attn_layers)
        for number, layer in enumerate(self.layers):
            x = layer(x, turned)
            if number < skipped or (not self.carried and number < len(self.layers) - 1):
                continue  # what is pooled anew at every layer is what the last one makes
            if held is None or not self.carried:
                queries = self.patch_embedding_projection(pooled(x, patches.lengths))
                held = queries.unflatten(-1, (self.parts, -1))
            held = held + self.cross_attn_layers[number - skipped](held, x, patches.inside)
        assert held is not None, "an encoder has at least one layer"
        return x, held.flatten(-2)


class GlobalTransformer(Stack):
    """The latent transformer over patches, which holds nearly all multiplications."""

    def __init__(self, config: Any, whole: ByteLatentConfig):
        super().__init__(config, whole, None)
        wide = getattr(config, "encoder_cross_output_size", None)
        self.token_embedding_projection = (
            nn.Identity() if wide is None else nn.Linear(wide, config.hidden_size, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.token_embedding_projection(x)
        turned = self.turns(x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, turned)
        return x


class LocalDecoder(Stack):
    """Byte states and patches to byte states that predict the next byte."""

    def __init__(self, config: Any, whole: ByteLatentConfig):
        super().__init__(config, whole, whole.local_attention_window_len)
        self.parts, residual = config.cross_attn_k, whole.cross_attention_residual
        wide = config.hidden_size * self.parts
        self.patch_embedding_projection = nn.Linear(config.hidden_size_global, wide, bias=False)
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        every = config.num_hidden_layers if config.cross_attn_all_layers else 1
        self.cross_attn_layers = nn.ModuleList(BytesReadPatch(config, residual) for _ in range(every))

    def forward(self, x: Tensor, patches: Tensor, read: Tensor) -> Tensor:
        turned = self.turns(x.shape[1], x.device)
        latent = self.patch_embedding_projection(patches).unflatten(-1, (self.parts, -1))
        for number, layer in enumerate(self.layers):
            if number < len(self.cross_attn_layers):
                x = x + self.cross_attn_layers[number](x, latent, read)
            x = layer(x, turned)
        return self.norm(x)


class ByteLatentPreTrainedModel(PreTrainedModel):
    """What transformers is told about both classes."""

    config_class = ByteLatentConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_sdpa = _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": Block,
        "attentions": OutputRecorder(SelfAttention, index=1),
    }

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """Truncated normals with 1 / sqrt(inputs), gains 1, as in transformers' BLT."""
        if isinstance(module, nn.Linear):
            _truncated(module.weight, module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            _truncated(module.weight, module.embedding_dim**-0.5)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)


class ByteLatentModel(ByteLatentPreTrainedModel):
    """The stack without the head: states `[B, N, D]` that predict the next byte."""

    def __init__(self, config: ByteLatentConfig):
        super().__init__(config)
        self.local_encoder = LocalEncoder(config.encoder_config, config)
        self.global_transformer = GlobalTransformer(config.global_config, config)
        self.local_decoder = LocalDecoder(config.decoder_config, config)
        self.sizes, self.table = list(config.encoder_hash_byte_group_size or ()), _table(config)
        width = self.local_encoder.config.hidden_size
        self.encoder_hash_tok_embedding = nn.Embedding(self.table * len(self.sizes), width)
        self.patcher = None
        if config.patch_in_forward and config.patching.needs_entropies:
            self.patcher = EntropyModel(config.patcher_config, config).requires_grad_(False)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.local_encoder.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.local_encoder.embed_tokens = value

    def starts(self, ids: Tensor) -> Tensor:
        """Where patches begin in `ids [B, N]`, `[B, N + 1]`: by the config's rule, and its entropy model if needed."""
        patching, entropies = self.config.patching, None
        if patching.needs_entropies:
            if self.patcher is None:
                raise SuperweightsError(
                    "This model has no entropy model: its patches are found outside.",
                    hint="give starts=, or set patch_in_forward in its config.",
                )
            entropies = self.patcher.entropies(ids, self.config.entropy_reset)
        return patching.starts(ids, entropies)

    def embedded(self, ids: Tensor) -> Tensor:
        """Bytes with the n-grams that end at them, `[B, N, D]`."""
        x = self.local_encoder.embed_tokens(ids)
        places = ngram_places(ids, self.sizes, self.table)
        offsets = self.table * torch.arange(len(self.sizes), device=ids.device)[:, None, None]
        found = self.encoder_hash_tok_embedding(places + offsets)
        if self.config.ngram_start == "paper":
            first = torch.tensor(self.sizes, device=ids.device)[:, None] - 1
            found = found * (torch.arange(ids.shape[1], device=ids.device) >= first)[:, None, :, None]
        x = x + found.sum(0)
        return x / (len(self.sizes) + 1) if self.config.ngram_sum == "paper" else x

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        starts: Tensor | None = None,
        patch_lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Ids `[B, N]`; patches are found by the config's rule, or given as a mask or as lengths.

        Padding belongs on the right, where no byte sees it; a mask with padding on the left is refused.
        """
        assert input_ids is not None, "bytes are read as ids"
        _refuse_left_padding(attention_mask)
        if starts is None:
            given = None if patch_lengths is None else from_lengths(patch_lengths, input_ids.shape[1])
            starts = self.starts(input_ids) if given is None else given
        if self.training:
            check_patches(starts)
        patches = Patches.of(starts)
        x = self.embedded(input_ids)
        x, held = self.local_encoder(x, patches)
        held = self.global_transformer(held)
        return BaseModelOutputWithPast(last_hidden_state=self.local_decoder(x, held, patches.read))


class ByteLatentForCausalLM(ByteLatentPreTrainedModel, GenerationMixin):
    """A Byte Latent Transformer that predicts the next byte. Generation reads the whole prefix for every byte: patches
    are found again each time, and since every rule is incremental they stay where they were."""

    def __init__(self, config: ByteLatentConfig):
        super().__init__(config)
        self.model = ByteLatentModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(self.model.local_decoder.config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        starts: Tensor | None = None,
        patch_lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits `[B, N, 260]` and, with `labels`, the mean loss in nats/byte; see `ByteLatentModel.forward`."""
        out = self.model(
            input_ids=input_ids,
            starts=starts,
            patch_lengths=patch_lengths,
            attention_mask=attention_mask,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        loss = None if labels is None else self.loss_function(logits, labels, self.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )


def _table(config: ByteLatentConfig) -> int:
    """Rows of the hash table for each n-gram size; several hash functions are refused."""
    if (config.encoder_hash_byte_group_nb_functions or 1) != 1:
        raise SuperweightsError(
            "Several hash functions for n-grams are not supported.", hint="the paper and its models use one."
        )
    return int(config.encoder_hash_byte_group_vocab or 0)


def _refuse_left_padding(mask: Tensor | None) -> None:
    if mask is not None and mask.dim() == 2 and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise SuperweightsError(
            "Bytes with padding on the left have no patches.",
            hint="pad on the right, or give one row at a time.",
        )


def _truncated(weight: Tensor, std: float) -> None:
    init.trunc_normal_(weight, mean=0.0, std=std, a=-3 * std, b=3 * std)


AutoModelForCausalLM.register(ByteLatentConfig, ByteLatentForCausalLM, exist_ok=True)
