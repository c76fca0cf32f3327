"""A loaded transformers model wherever a name is accepted: the same as the folder that saving it writes."""

from __future__ import annotations

from pathlib import Path

import families
import planting
import pytest
import torch
from safetensors.torch import load_file
from small import embedded_tokenizer, tiny
from transformers import AutoModelForCausalLM, LlamaConfig

import superweights
from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.subject import Reading, Source
from superweights.subject.text import raw_prompts

pytestmark = pytest.mark.tiny


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """A tiny Llama with a super weight, in memory; and its folder."""
    folder = tmp_path_factory.mktemp("planted")
    model = families.tiny_model("llama")
    planting.plant(model, raw_prompts(families.VOCABULARY, 8, 12))
    model.save_pretrained(folder)
    return model, folder


# tied embeddings, fused experts that are saved apart, a renamed tree, and a transposed one
@pytest.mark.parametrize("kind", ["gemma2", "mixtral", "qwen3_moe", "gpt2", "bloom"])
def test_a_loaded_model_holds_what_saving_it_writes(kind, tmp_path):
    model = families.tiny_model(kind)
    model.save_pretrained(tmp_path)
    saved = {
        name: value for file in tmp_path.glob("*.safetensors") for name, value in load_file(file).items()
    }
    with open_checkpoint(model) as loaded, open_checkpoint(tmp_path) as folder:
        assert dict(loaded.tensors) == dict(folder.tensors)
        assert loaded.fingerprint() == folder.fingerprint()
        for name, value in saved.items():
            assert torch.equal(loaded.read(name), value)
            assert torch.equal(loaded.read_rows(name, 0, 1), value[:1])
        assert loaded.model_config().to_diff_dict()["model_type"] == folder.config["model_type"]


def test_edits_last_until_release_and_never_reach_the_model(planted):
    model, _ = planted
    name = "model.layers.0.mlp.down_proj.weight"
    before = model.get_parameter(name).detach().clone()
    with open_checkpoint(model) as checkpoint:
        checkpoint.read(name)[3, 5] = 99.0
        assert checkpoint.element(name, (3, 5)) == 99.0
        checkpoint.release([name])
        assert checkpoint.element(name, (3, 5)) == before[3, 5]
    assert torch.equal(model.get_parameter(name), before)
    assert model.config.use_cache


def test_find_and_scan_see_the_same_in_memory_and_in_the_folder(planted):
    model, folder = planted
    loaded, saved = superweights.find(model), superweights.find(folder)
    assert saved.candidates
    assert loaded.candidates == saved.candidates
    assert loaded.conditions["fingerprint"] == saved.conditions["fingerprint"]
    one, other = superweights.scan(model).findings, superweights.scan(folder).findings
    assert (one.suspects, one.neurons, one.tensors) == (other.suspects, other.neurons, other.tensors)


def test_quantize_writes_the_same_model_from_memory(planted, tmp_path):
    model, folder = planted
    superweights.quantize(model, tmp_path / "a")
    superweights.quantize(folder, tmp_path / "b")
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in "ab")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)


def test_a_tokenizer_comes_as_a_pair_or_in_the_source():
    tokenizer = embedded_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=49152, num_attention_heads=2, tie_word_embeddings=True, **sizes)
    model, reading = tiny(config), Reading(window=16, windows=2)
    records = [
        superweights.score(subject, reading=reading)
        for subject in ((model, tokenizer), Source(model, tokenizer=tokenizer), Source((model, tokenizer)))
    ]
    assert records[0].scores == records[1].scores == records[2].scores
    with pytest.raises(SuperweightsError, match="tokenizer"):
        superweights.score(model, reading=reading)


@pytest.mark.parametrize("strange", [torch.nn.Linear(2, 2), 7, {"a": 1}, (1, 2), families])
def test_what_is_no_model_is_refused_in_one_short_sentence(strange):
    for ask in (open_checkpoint, superweights.find, superweights.scan):
        with pytest.raises(SuperweightsError) as refused:
            ask(strange)
        assert refused.value.message.startswith(
            "A model is a name, a path, or a loaded transformers model, not"
        )
        assert len(refused.value.message) < 120


def test_a_model_that_is_not_in_memory_or_cannot_be_carried_is_refused(planted):
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(planted[0].config)
    with pytest.raises(SuperweightsError, match="not wholly in memory"):
        open_checkpoint(empty)
    with pytest.raises(SuperweightsError, match="in every worker"):
        superweights.sweep(planted[0])
