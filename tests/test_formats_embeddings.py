"""Embeddings and heads are stored small, the sizes are those of the files, and transformers loads what is written."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import gguf
import pytest
import torch
from safetensors import safe_open
from small import saved_llama
from torch.nn import functional
from transformers import AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig

import superweights  # noqa: F401 - teaches transformers the packed format
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.formats.packed.embedding import PackedEmbedding, TiedHead
from superweights.quantization import Blocks, Scheme, quantize_tensor
from superweights.record import Record
from superweights.stream import streaming
from superweights.subject import Reading
from tests.tiny_gguf import write_tiny

pytestmark = pytest.mark.tiny

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "tied": LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True),
    "with a head of its own": LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=False),
    "scaled": GemmaConfig(**SIZES, **HEADS, head_dim=16, tie_word_embeddings=True),
    "with positions": GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64),
}
IDS = torch.arange(24).reshape(2, 12)
ROWS = Scheme("int8", zero_point="none", blocks=Blocks("channel", ()))
TENSOR = "model.layers.0.mlp.down_proj.weight"


def saved(config, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(copy.deepcopy(config)).save_pretrained(folder)
    return folder


def opened(folder: Path, **how):
    return AutoModelForCausalLM.from_pretrained(folder, **how).eval()


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return opened(folder, dtype="float32")(IDS).logits


@pytest.mark.parametrize("name", CONFIGS)
def test_embeddings_in_int8_compute_what_dense_ones_do_and_the_whole_is_smaller(name, tmp_path):
    source = saved(CONFIGS[name], tmp_path / "source")
    for form in ("packed", "dense"):
        asked = ["quantize", str(source), "--to", str(tmp_path / form), "--format", form, "--group", "32"]
        assert run([*asked, "--keep", "none", "--embeddings", "int8", "--no-check"]) == 0
    torch.testing.assert_close(logits(tmp_path / "packed"), logits(tmp_path / "dense"), rtol=1e-5, atol=1e-5)
    model = opened(tmp_path / "packed", dtype="float32")
    table = model.get_input_embeddings()
    assert isinstance(table, PackedEmbedding)
    assert isinstance(model.get_output_embeddings(), TiedHead) == (name != "with a head of its own")
    original = AutoModelForCausalLM.from_pretrained(source).get_input_embeddings().weight
    expected = quantize_tensor(original.detach(), ROWS).dequantize()
    torch.testing.assert_close(table.weight, expected)
    torch.testing.assert_close(table.rows(torch.tensor([5, 0, 95])), expected[[5, 0, 95]])


def test_a_packed_embedding_computes_in_the_type_of_its_model(tmp_path):
    source = saved(CONFIGS["tied"], tmp_path / "source")
    asked = ["quantize", str(source), "--to", str(tmp_path / "p"), "--keep", "none", "--embeddings", "int8"]
    assert run([*asked, "--no-check"]) == 0
    model = opened(tmp_path / "p", dtype=torch.bfloat16)
    with torch.no_grad():
        said = model(IDS).logits
    assert said.dtype == torch.bfloat16
    assert model.get_input_embeddings()(IDS).dtype == torch.bfloat16
    assert (said.float() - logits(tmp_path / "p")).abs().max() < 0.05 * said.abs().max()
    assert model.generate(IDS[:1, :4], max_new_tokens=2, do_sample=False).shape == (1, 6)


@pytest.mark.parametrize("form", ["packed", "compressed-tensors", "dense"])
def test_by_default_embeddings_are_bfloat16_and_gains_stay(form, tmp_path):
    if form == "compressed-tensors":
        pytest.importorskip("compressed_tensors")
    source, to = saved(CONFIGS["with a head of its own"], tmp_path / "source"), tmp_path / "to"
    asked = ["quantize", str(source), "--to", str(to), "--format", form, "--group", "32", "--keep", "none"]
    assert run([*asked, "--no-check"]) == 0
    (file,) = to.glob("*.safetensors")
    with safe_open(file, framework="pt") as held, open_checkpoint(str(source)) as original:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(held.get_tensor(name), original.read(name).bfloat16())
        assert held.get_tensor("model.norm.weight").dtype == torch.float32
    assert logits(to).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_stored_in_two_bytes_stays(dtype, tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["tied"])).to(dtype).save_pretrained(
        tmp_path / "source"
    )
    asked = ["quantize", str(tmp_path / "source"), "--to", str(tmp_path / "to"), "--keep", "none"]
    assert run([*asked, "--no-check"]) == 0
    with safe_open(tmp_path / "to" / "superweights.safetensors", framework="pt") as held:
        assert held.get_tensor("model.embed_tokens.weight").dtype == dtype


def test_kept_as_stored_when_asked(tmp_path):
    source = saved(CONFIGS["tied"], tmp_path / "source")
    asked = ["quantize", str(source), "--to", str(tmp_path / "to"), "--keep", "none", "--embeddings", "keep"]
    assert run([*asked, "--no-check"]) == 0
    with safe_open(tmp_path / "to" / "superweights.safetensors", framework="pt") as held:
        assert held.get_tensor("model.embed_tokens.weight").dtype == torch.float32


def test_a_saved_plan_stores_embeddings_as_it_says(tmp_path):
    source, plan = saved(CONFIGS["tied"], tmp_path / "source"), tmp_path / "plan.json"
    first = ["quantize", str(source), "--to", str(tmp_path / "a"), "--keep", "none", "--embeddings", "int8"]
    assert run([*first, "--save-plan", str(plan), "--no-check"]) == 0
    again = ["quantize", str(source), "--to", str(tmp_path / "b"), "--plan", str(plan), "--no-check"]
    assert run(again) == 0
    name = "superweights.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_divergence_is_that_of_the_model_that_was_written(tmp_path, capsys):
    """Beside transformers' own two models on the same windows; keeping the planted weight is what makes it small."""
    source = saved_llama(tmp_path / "source", {TENSOR: {(5, 7): 4.0}})
    kept = ["--keep", f"{TENSOR}[5, 7]", "--clip-z", "3", "--window", "16", "--windows", "3"]
    asked = [
        "quantize",
        str(source),
        "--to",
        str(tmp_path / "to"),
        "--format",
        "dense",
        "--group",
        "32",
        *kept,
    ]
    assert run([*asked, "--out", str(tmp_path / "record.json")]) == 0
    said = capsys.readouterr().out
    found = Record.read(tmp_path / "record.json").findings
    with open_checkpoint(str(source)) as checkpoint:
        tokens = Reading(None, 16, 3).tokens_of(checkpoint)
    with torch.no_grad():
        p, q = (
            functional.log_softmax(opened(folder, dtype="float32")(tokens).logits[:, :-1].double(), -1)
            for folder in (source, tmp_path / "to")
        )
    expected = float((p.exp() * (p - q)).sum(-1).mean())
    assert found["kl"]["value"] == pytest.approx(expected, rel=1e-4)
    assert found["kl_plain"]["value"] > 1.2 * expected
    assert found["bytes_after"] == (tmp_path / "to" / "model.safetensors").stat().st_size
    assert said.splitlines()[0].startswith(str(tmp_path / "to"))
    assert "bits per weight (before: " in said.splitlines()[0]
    assert "with nothing kept" in said


def test_a_super_expert_is_said_to_be_kept_in_one_weight_only(tmp_path, capsys):
    source = saved_llama(tmp_path / "source", {TENSOR: {(5, 7): 4.0}})
    expert = {
        **{"module": "model.layers.0.mlp.experts", "layer": 0, "expert": 3, "verdict": "critical"},
        **{"inside": f"{TENSOR}[5, 7]", "value": 4.0},
    }
    with open_checkpoint(str(source)) as checkpoint:
        found = {"verdict": "critical", "candidates": [], "experts": [expert]}
        (tmp_path / "found.json").write_text(Record.of("find", checkpoint, findings=found).to_json())
    asked = ["quantize", str(source), "--to", str(tmp_path / "to"), "--from", str(tmp_path / "found.json")]
    assert run([*asked, "--no-check"]) == 0
    said = capsys.readouterr().out
    assert (
        f"note: Expert 3 of model.layers.0.mlp.experts is critical as a whole; of it only {TENSOR}[5, 7]"
        in said
    )
    assert run(["recipe", str(source), "--for", "llama.cpp", "--from", str(tmp_path / "found.json")]) == 0
    assert "of it only the matrix with" in capsys.readouterr().out
    plan = ["plan", str(source), "--from", str(tmp_path / "found.json"), "--window", "8", "--windows", "2"]
    assert run([*plan, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"]["notes"]


def test_a_gguf_file_keeps_its_embeddings_or_has_them_in_q8_0(tmp_path):
    write_tiny(tmp_path / "tiny.gguf", "llama", "llama")
    asked = ["quantize", str(tmp_path / "tiny.gguf"), "--format", "gguf", "--keep", "none", "--no-check"]
    assert run([*asked, "--to", str(tmp_path / "kept.gguf")]) == 0
    assert run([*asked, "--to", str(tmp_path / "q8.gguf"), "--embeddings", "int8"]) == 0
    kinds = {
        name: {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors}
        for name in ("tiny", "kept", "q8")
    }
    for name in ("token_embd.weight", "output.weight"):
        assert kinds["kept"][name] == kinds["tiny"][name]
        assert kinds["q8"][name] == "Q8_0"
    assert logits_of_gguf(tmp_path / "q8.gguf").isfinite().all()
    assert run([*asked, "--to", str(tmp_path / "no.gguf"), "--embeddings", "bf16"]) == 1


@torch.no_grad()
def logits_of_gguf(path: Path) -> torch.Tensor:
    with open_checkpoint(str(path)) as checkpoint, streaming(checkpoint) as model:
        return model(IDS).logits
