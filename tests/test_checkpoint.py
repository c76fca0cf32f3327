"""Opening folders and files: what is accepted, what is refused and in which words, and what reading costs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from superweights.checkpoint import open_checkpoint

pytestmark = pytest.mark.tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A tiny Llama saved by transformers: one folder with one file, one folder with several."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("made")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(root / "one")
    model.save_pretrained(root / "many", max_shard_size="20KB")
    return root


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of the sharded folder that a test may damage."""
    return Path(shutil.copytree(made / "many", tmp_path / "many"))


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor as the safetensors library reads it."""
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.mark.parametrize("which", ["one", "many"])
def test_every_tensor_equals_what_safetensors_loads(made, which):
    with open_checkpoint(made / which) as checkpoint:
        expected = stored(made / which)
        assert set(checkpoint.tensors) == set(expected)
        for name, tensor in expected.items():
            info = checkpoint.tensors[name]
            assert (info.shape, info.dtype, info.nbytes) == (tuple(tensor.shape), "BF16", tensor.nbytes)
            assert torch.equal(checkpoint.read(name), tensor)
            assert torch.equal(checkpoint.read_rows(name, 1, 3), tensor[1:3])
            last = tuple(n - 1 for n in tensor.shape)
            assert checkpoint.element(name, last) == tensor[last].item()


def test_the_configuration_object_builds_the_same_model(made):
    with open_checkpoint(made / "many") as checkpoint:
        assert checkpoint.model_config().hidden_size == checkpoint.config["hidden_size"] == 32
        assert checkpoint.tokenizer() is None
