"""A tiny random model of every causal language model type that the installed transformers knows.

Test support. Each type's own configuration class is shrunk by the names of its size fields, with a few
types that need a word more in `EXTRA`; nothing here knows how a model is built. The models are under one
million parameters, live (their weights are scaled so that activations are of order one), and are saved
as checkpoints that a stranger could have made.

Source for the aim: the 189 entries of `MODEL_FOR_CAUSAL_LM_MAPPING` in transformers 5.23.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS, HIDDEN, INNER, HEADS, HEAD_SIZE, EXPERTS, VOCABULARY = 3, 64, 96, 4, 16, 4, 256
LARGEST = 1_000_000

# Size fields by name (whole match, first line wins). A field is only ever made smaller.
SIZES: tuple[tuple[str, int], ...] = (
    (r"(num_|n_)?(hidden_|encoder_|decoder_|global_)?(layers?|blocks|layers_per_stack)|depth", LAYERS),
    (r"(swa_|index_|linear_|mamba_)*(num_|n_)*(key_|value_|mamba_)*heads?", HEADS),
    (r"(conf_|swa_)?(num_|encoder_|decoder_)*attention_heads(_per_layer)?", HEADS),
    (r"(hidden_|d_|n_|input_|output_|lru_|backbone_)*(size|model|embd|width|hidden_size)", HIDDEN),
    (r"hidden_size_global|(input_|output_)?(embedding|emb|word_embed_proj)_(size|dim)|emb_dim", HIDDEN),
    (r"(pronunciation|shape)_embed_dim|vision_output_dim|projector_(in|out)put_dim|out_hidden_size", HIDDEN),
    (r".*intermediate_size(_mlp)?|.*ffn_(dim|hidden_size)|(dim_|d)ff|d_ff|d_inner|mlp_dim", INNER),
    (r"feed_forward_size", INNER),
    (r"(linear_|swa_|index_|mamba_)?(key_|value_|d_|attention_)?(head_(dim|size)|headdim|d_head)", HEAD_SIZE),
    (r"d_kv|dim_head|kv_channels|mamba_d_head|attention_head_dim", HEAD_SIZE),
    (r"v_head_dim|qk_nope_head_dim", HEAD_SIZE),
    (r"qk_head_dim", HEAD_SIZE + HEAD_SIZE // 2),
    (r"qk_rope_head_dim|rotary_dim", HEAD_SIZE // 2),
    (r".*(lora_|low)rank|.*_rank|hc_lowrank", HEAD_SIZE),
    (r"(num_|n_|moe_)*(local_|routed_)?(num_)?experts", EXPERTS),
    (r"num_experts_per_tok|moe_(top_?)?k|zero_expert_num", 2),
    (r"adapter_(in|out)(put)?_(dim|size)", HIDDEN),
    (r"output_channels|.*conv_channels|.*_out_channel|downsample_hidden_size", HEAD_SIZE),
    (r"n_group|num_expert_groups?", 2),
    (r"topk_group|n_shared_experts", 1),
    (r"(decoder_|audio_|pronunciation_|shape_|unpadded_)?vocab_size(_per_layer_input)?", VOCABULARY),
    (r"max_(position_embeddings|seq_len|source_positions|target_positions)|n_positions|n_ctx", 256),
    (r"context_length|original_max_position_embeddings|num_position_embeddings|rel_extent", 256),
    (r"(local_)?sliding_window(_size)?|window_size|attention_window_size|attention_chunk_size", 64),
    (r"local_attention(_window_len)?|(local|lsh)_attn_chunk_length|keep_window_size", 64),
    (r"(mamba_)?chunk_size|block_size", 16),
    (r"(mamba_|ssm_)?(d_)?state(_size)?", 16),
    (r"index_topk|first_k_dense_replace", 1),
    (r"max_window_layers", 1),
    (r"image_size|crop_size", 32),
    (r"hidden_size_per_layer_input|router_hidden_size", HEAD_SIZE),
)

DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
KEY_VALUE_HEADS = r"(swa_)?num_(key_value|kv)_heads"
# Counts that some configurations leave open and their models then need.
EXPERTS_NEEDED = {"num_experts_per_tok": 2, "n_routed_experts": EXPERTS}

# What the names do not say. A dotted name reaches into a sub-configuration.
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32}
_INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_SIZE,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
_SLIDING = {
    "swa_num_attention_heads": HEADS,
    "swa_num_key_value_heads": HEADS,
    "swa_q_lora_rank": HEAD_SIZE,
    "swa_kv_lora_rank": HEAD_SIZE,
    "swa_head_dim": 24,
    "swa_qk_nope_head_dim": HEAD_SIZE,
    "swa_v_head_dim": HEAD_SIZE,
}
EXTRA: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA | {"attn_layer_indices": [2]},
    "bloom": {"n_layer": LAYERS},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "dbrx": {"attn_config.rope_theta": 1e4, "attn_config.clip_qkv": 8},
    "deepseek_v2": {"first_k_dense_replace": 1},
    "dots1": {"first_k_dense_replace": 1, "n_shared_experts": 1},
    "dots3_note": {f"text_config.{key}": value for key, value in _SLIDING.items()},
    "dots3_note_text": _SLIDING,
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4": {"text_config.global_head_dim": 32},
    "gemma4_text": {"global_head_dim": 32},
    "gemma4_unified": {"text_config.global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "gpt_neo": {"attention_types": [[["global", "local", "local"], 1]]},
    "granitemoehybrid": _MAMBA | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "hunyuan_v1_dense": {"head_dim": HEAD_SIZE},
    "hunyuan_v1_moe": {"head_dim": HEAD_SIZE, "num_experts": EXPERTS, "moe_topk": 2},
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "longcat_flash": {"head_dim": 8},
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "ministral": {"head_dim": HEAD_SIZE},
    "musicgen": {"decoder.num_codebooks": 1},
    "musicgen_melody": {"decoder.num_codebooks": 1},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 2},
    "qwen4_exp": {f"text_config.{key}": value for key, value in _INDEXER.items()},
    "qwen4_exp_text": _INDEXER,
    "reformer": {"axial_pos_embds_dim": (32, 32), "axial_pos_shape": (16, 16)},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
}

_DRAFTER = "a drafter: it reads the key-value cache of another model and cannot run alone"
NOT_BUILT: dict[str, str] = {
    "gemma3n": "its vision tower needs pillow and timm; the text sibling gemma3n_text is covered",
    "gemma4_assistant": _DRAFTER,
    "gemma4_unified_assistant": _DRAFTER,
}
_DECODER_ONLY = "AutoModelForCausalLM hands the whole configuration to a class that wants the decoder's"
# Built, but transformers' own auto class cannot open a checkpoint of them.
NOT_OPENED: dict[str, str] = {"musicgen": _DECODER_ONLY, "musicgen_melody": _DECODER_ONLY}


def causal_model_types() -> list[str]:
    """Every model type of transformers' causal language model mapping, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str, **sizes: Any) -> PreTrainedConfig:
    """The type's own configuration with every size made small; `sizes` overrule."""
    return _shrunk(CONFIG_MAPPING[model_type], EXTRA.get(model_type, {}) | sizes)


def tiny_model(
    model_type: str, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: Any
) -> PreTrainedModel:
    """A random model of `model_type` in eval mode, under a million parameters, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = built(tiny_config(model_type, **sizes))
        _enliven(model)
    size = sum(parameter.numel() for parameter in model.parameters())
    assert size < LARGEST, f"{model_type} has {size} parameters"
    return model.to(dtype).eval()


def save_tiny(
    model_type: str, folder: Path | str, model: PreTrainedModel | None = None, shard: str = "50GB"
) -> PreTrainedModel:
    """Write `model` (a fresh one where none is given) to `folder` as a stranger's checkpoint; returns it.

    A class that takes only a part of a composite configuration (the text model of a vision model) writes a
    type that no auto class knows, so there the whole configuration goes into the folder, as its makers do.
    """
    model = tiny_model(model_type) if model is None else model
    model.save_pretrained(folder, max_shard_size=shard)
    whole = tiny_config(model_type)
    if type(whole) is not type(model.config):
        whole.save_pretrained(folder)
    return model


def token_ids(rows: int = 2, length: int = 12, seed: int = 0) -> torch.Tensor:
    """Random token ids `[rows, length]` that no tiny configuration gives a special meaning."""
    return torch.randint(8, VOCABULARY - 8, (rows, length), generator=torch.Generator().manual_seed(seed))


def built(config: PreTrainedConfig) -> PreTrainedModel:
    """The causal language model of `config`, from the part of a composite configuration that is its own."""
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    parts = [config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))]
    own = next((part for part in parts if isinstance(part, model_class.config_class)), config)
    return model_class._from_config(own)


def _shrunk(config_class: type[PreTrainedConfig], extra: dict[str, Any]) -> PreTrainedConfig:
    """`config_class` with small sizes; its sub-configurations too."""
    default = vars(config_class())
    chosen = dict(_small_fields(config_class, default))
    for name, value in default.items():
        if isinstance(value, PreTrainedConfig):
            inner = {
                key.removeprefix(name + "."): v for key, v in extra.items() if key.startswith(name + ".")
            }
            chosen[name] = _shrunk(type(value), inner)
    return config_class(**chosen | {key: value for key, value in extra.items() if "." not in key})


def _small_fields(config_class: type[PreTrainedConfig], default: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(field, small value) for every field that names a size, a special token or one value per layer."""
    stored = {
        field.name: config_class.attribute_map.get(field.name, field.name) for field in fields(config_class)
    }
    values = {name: default.get(key) for name, key in stored.items()}
    depth = next((values[name] for name in DEPTHS if values.get(name)), None)
    per_layer = {n: v for n, v in values.items() if isinstance(v, list | tuple) and depth and len(v) == depth}
    layers = _one_of_each(list(zip(*per_layer.values(), strict=True)))
    for name, value in values.items():
        if name in DEPTHS and layers:
            yield name, len(layers)
        elif name in per_layer:
            yield name, [_small(name, value[i], values) for i in layers]
        elif (small := _small(name, value, values)) is not value:
            yield name, small


def _small(name: str, value: Any, values: dict[str, Any]) -> Any:
    """`value` of field `name`, no larger than its kind of size may be."""
    if name == "is_decoder":
        return True
    if type(value) is not int:
        return EXPERTS_NEEDED.get(name) if value is None else value
    if name.endswith(("_token_id", "_token_index")):
        return min(value, VOCABULARY - 1)
    if re.fullmatch(KEY_VALUE_HEADS, name):
        return HEADS if value >= (values.get("num_attention_heads") or value) else min(2, value)
    return next((min(value, small) for pattern, small in SIZES if re.fullmatch(pattern, name)), value)


def _one_of_each(kinds: list[Any]) -> list[int]:
    """The layers to keep: the first of each kind (at most five), and what follows them up to `LAYERS`."""
    first = [i for i, kind in enumerate(kinds) if kind not in kinds[:i]][:5]
    more = sorted(set(range(len(kinds))) - set(first), key=lambda i: (i < max(first), i))
    return sorted(first + more[: max(LAYERS - len(first), 0)])


@torch.no_grad()
def _enliven(model: PreTrainedModel) -> None:
    """Scale the random weights so that activations are of order one, and make no parameter constant.

    The usual 0.02 for matrices 64 wide lets every signal die out. Special starts (decay rates, time steps)
    keep their shape: only what is too small grows, and what is constant gets a little noise.
    """
    for parameter in model.parameters():
        spread = parameter.std(correction=0).item()
        alive = (parameter.shape[-1] * parameter.shape[-2]) ** -0.25 if parameter.ndim > 1 else 0.0
        if not torch.isfinite(parameter).all() or (
            spread == 0 and parameter.ndim > 1 and not parameter.any()
        ):
            parameter.normal_(0, alive or 0.05)
        elif spread == 0:
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        elif spread < alive:
            parameter.mul_(alive / spread)
