"""Small models with large vocabularies, as everybody's tests have them: blocks are found whatever the proportions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import built, tiny_config
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

import superweights
from superweights import Dropping, Reading, Search
from superweights.subject.blocks import find_blocks

pytestmark = pytest.mark.tiny

# hidden size, layers, vocabulary
SHAPES = {"as CI has them": (16, 2, 32_000), "as a quick trial": (64, 4, 49_152)}
KINDS = (
    "llama", "gpt2", "gpt_neox", "mixtral", "qwen3_moe", "gemma3_text", "gemma3", "opt", "mpt", "jamba", "rwkv",
    "deepseek_v3", "xlnet",
)  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def small(request, tmp_path_factory) -> tuple[Path, int]:
    """A Llama that is nearly all vocabulary, and how many layers it has."""
    hidden, layers, vocabulary = SHAPES[request.param]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden // 2, num_hidden_layers=layers,
        num_attention_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("small") / "model"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder, layers


def test_find_looks_at_every_layer(small):
    folder, layers = small
    assert len(superweights.find(folder, Search(rounds=0)).layers) == layers


def test_quantize_rounds_every_matrix_of_the_blocks(small, tmp_path):
    folder, layers = small
    assert superweights.quantize(folder, tmp_path / "q").findings.tensors_rounded == 7 * layers


def test_prune_drops_one_attention_and_one_mlp(small):
    folder, layers = small
    for what in ("attention", "mlp"):
        reading = Reading(window=8, windows=2)
        found = superweights.prune(folder, Dropping(what, 1, draws=0), reading).findings
        assert len(found.similarities) == layers
        assert len(found.dropped[what]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_the_same_whatever_the_vocabulary(kind):
    blocks = {}
    for vocabulary in (64, 50_000):
        config = tiny_config(kind)
        for part in (config, *(each for each in vars(config).values() if isinstance(each, PreTrainedConfig))):
            if hasattr(part, "vocab_size"):
                part.vocab_size = vocabulary
            part.pad_token_id = None
        with torch.device("meta"):
            blocks[vocabulary] = list(find_blocks(built(config)))
    assert blocks[64] == blocks[50_000]
    assert blocks[64]
