"""compressed-tensors: read back by transformers and by the format's own package, against our dense rounding."""

from __future__ import annotations

import json

import pytest
import torch
from test_formats_packed import GPT2, KEPT, LLAMA, logits, saved, written
from transformers import AutoModelForCausalLM

from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.compressed_tensors import write_compressed_tensors
from superweights.formats.dense import write_dense
from superweights.quantization import Blocks, Scheme
from superweights.quantization.plan import Plan
from superweights.stream.linears import linear_tensors

pytest.importorskip("compressed_tensors", reason="needs superweights[formats]")
pytestmark = pytest.mark.tiny

INT4 = Scheme("int4", zero_point="none", blocks=Blocks("group", (32,)))
INT8 = Scheme("int8", zero_point="none", blocks=Blocks("channel", ()))
INT3 = Scheme("int3", zero_point="none", anchor="signed", blocks=Blocks("group", (32,)))


@pytest.mark.parametrize("scheme", [INT4, INT8, INT3], ids=["int4", "int8", "int3"])
def test_transformers_reads_back_what_was_rounded(scheme, tmp_path):
    source = saved(LLAMA, tmp_path / "source")
    stored = written(source, tmp_path / "stored", scheme, (), write_compressed_tensors)
    dense = written(source, tmp_path / "dense", scheme, (), write_dense)
    torch.testing.assert_close(logits(stored), logits(dense), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(dense), logits(source), atol=1e-3)


def test_modules_have_their_own_precision_and_those_with_super_weights_stay_whole(tmp_path):
    source = saved(LLAMA, tmp_path / "source")
    with open_checkpoint(str(source)) as checkpoint:
        names = linear_tensors(checkpoint)
        schemes = {name: INT8 if "self_attn" in name else INT4 for name in names}
        plan = Plan(schemes, (KEPT,))
        stored = write_compressed_tensors(checkpoint, plan, tmp_path / "stored").folder
        dense = write_dense(checkpoint, plan, tmp_path / "dense").folder
    original, read = (AutoModelForCausalLM.from_pretrained(f) for f in (source, stored))
    expected = AutoModelForCausalLM.from_pretrained(dense)
    with torch.no_grad():
        read(torch.tensor([[1, 2]]))  # transformers decompresses at the first forward
    for name in names:
        weight = read.get_parameter(name)
        if name == KEPT.tensor:
            assert torch.equal(weight, original.get_parameter(name))
        else:
            torch.testing.assert_close(weight, expected.get_parameter(name), rtol=1e-6, atol=1e-7)
    config = json.loads((stored / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["model.layers.0.mlp.down_proj", "lm_head"]
    assert sorted(len(group["targets"]) for group in config["config_groups"].values()) == [5, 8]


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (Scheme("int4", blocks=Blocks("group", (32,))), "float zero point"),
        (Scheme("nf4", zero_point="none", blocks=Blocks("group", (32,))), "grid nf4"),
        (Scheme("int4", zero_point="integer", blocks=Blocks("group", (32,))), "integer zero point"),
        (Scheme("int4", zero_point="none", blocks=Blocks("tile", (8, 8))), "kind tile"),
        (Scheme("int4", zero_point="none", blocks=Blocks("group", (40,))), "groups of"),
    ],
)
def test_what_the_format_cannot_say_is_refused_before_anything_is_written(scheme, said, tmp_path):
    source = saved(LLAMA, tmp_path / "source")
    with pytest.raises(SuperweightsError, match=said):
        written(source, tmp_path / "stored", scheme, (), write_compressed_tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_transposed_matrices_and_scales_of_another_dtype_are_refused(tmp_path):
    with pytest.raises(SuperweightsError, match="transposed"):
        written(saved(GPT2, tmp_path / "gpt2"), tmp_path / "a", INT4, (), write_compressed_tensors)
    half = saved(LLAMA, tmp_path / "half", torch.bfloat16)
    with pytest.raises(SuperweightsError, match="scales do not fit into bfloat16"):
        written(half, tmp_path / "b", INT4, (), write_compressed_tensors)


@pytest.mark.tiny
def test_layers_that_transformers_cannot_load_packed_stay_whole_or_are_refused(tmp_path, capsys):
    """SigLIP's and Falcon's own initialisation asks every linear layer for its weight while a checkpoint is loaded."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, FalconConfig, Gemma3Config

    from superweights.cli import run

    text = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "head_dim": 16,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tower = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"image_size": 28, "patch_size": 14, "vision_use_head": False}
    tokens = {
        "image_token_index": 300,
        "boi_token_index": 301,
        "eoi_token_index": 302,
        "mm_tokens_per_image": 4,
    }
    gemma = Gemma3Config(text_config={**text, **heads}, vision_config={**tower, **sizes}, **tokens)
    falcon = FalconConfig(vocab_size=96, hidden_size=64, num_hidden_layers=1, num_attention_heads=4)
    AutoModelForImageTextToText.from_config(gemma).save_pretrained(tmp_path / "gemma")
    AutoModelForCausalLM.from_config(falcon).save_pretrained(tmp_path / "falcon")
    options = ["--format", "compressed-tensors", "--zero-point", "none", "--group", "32", "--keep", "none"]
    assert run(["quantize", str(tmp_path / "gemma"), "--to", str(tmp_path / "q"), *options]) == 0
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "q", output_loading_info=True)
    assert not any(info.values())
    assert model(input_ids=torch.zeros((1, 4), dtype=torch.long)).logits.isfinite().all()
    capsys.readouterr()
    assert run(["quantize", str(tmp_path / "falcon"), "--to", str(tmp_path / "f"), *options]) == 1
    assert "cannot load" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()
