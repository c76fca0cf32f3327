"""Tiny GGUF files of many architectures, written with the gguf package from transformers' own tables."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

KINDS = [gguf.GGMLQuantizationType[name] for name in ("Q8_0", "Q4_0", "Q4_1", "Q5_1", "BF16", "F16", "F32")]
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "state_size": 8,
    "max_position_embeddings": 1024,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "rope_theta": 10000.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_tiny(
    path: Path, architecture: str, model_type: str, *, layers: int = 2, seed: int = 0, **more: int
) -> None:
    """A GGUF file with random weights in several formats, which transformers loads as a `model_type`."""
    sizes = {**SIZES, "num_hidden_layers": layers, "n_layer": layers, **more}
    config = AutoConfig.for_model(model_type, **sizes)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    _add_settings(writer, architecture, model_type, {**config.to_dict(), "rope_theta": 10000.0})
    random = np.random.default_rng(seed)
    for name, shape in _stored_shapes(config, architecture).items():
        values = random.standard_normal(shape).astype(np.float32)
        values = -np.abs(values) if "ssm_a" in name else values  # stored as minus an exponential
        kind = KINDS[zlib.crc32(name.encode()) % len(KINDS)]
        if len(shape) < 2 or shape[-1] % 32:
            kind = gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_settings(
    writer: gguf.GGUFWriter, architecture: str, model_type: str, config: dict[str, Any]
) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, name in (GGUF_CONFIG_MAPPING.get(architecture) or GGUF_CONFIG_MAPPING[model_type]).items():
        value = config.get(name) if name else None
        if type(value) in add:
            add[type(value)](f"{architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<pad>", "<s>", "</s>", "AB", *(chr(33 + i) for i in range(96 - 36))])
    writer.add_token_types([3, 3, 3, *[1] * 61])
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _stored_shapes(config: Any, architecture: str) -> dict[str, tuple[int, ...]]:
    """The file's tensors: the shape that transformers' processor turns into the parameter's."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    parameters = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    found = {}
    for stored, name in get_gguf_hf_weights_map(model, processor).items():
        if name in parameters:
            shape = parameters[name]
            choices = [shape, shape[::-1], tuple(n for n in shape if n != 1)]
            found[stored] = next(s for s in choices if _processed(processor, stored, s) == shape)
    return found


def _processed(processor: Any, name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    sink: dict[str, Any] = {"tensors": {}}
    try:
        weights = processor.process(
            -np.ones(shape, np.float32), name, tensor_key_mapping={}, parsed_parameters=sink
        )
    except (ValueError, np.exceptions.AxisError):
        return None
    return np.shape(weights.weights)
