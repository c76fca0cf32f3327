"""Recipes: each tool's own matching, run on every module of the embedded model, spares the named ones alone."""

from __future__ import annotations

import json
import re

import pytest
import torch
from small import embedded_folder
from torch import nn
from transformers import AutoModelForCausalLM

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.formats.recipes import TOOLS, recipe

pytestmark = pytest.mark.real

NAMED = ["model.layers.1.mlp.down_proj", "model.layers.11.mlp.down_proj"]
ADDRESSES = [Address(f"{NAMED[0]}.weight", (507, 83)), Address(f"{NAMED[1]}.weight", (507, 1229))]


@pytest.fixture(scope="module")
def recipes():
    embedded_folder()
    with open_checkpoint() as checkpoint:
        yield {tool: recipe(checkpoint, ADDRESSES, tool) for tool in TOOLS}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with open_checkpoint() as checkpoint, torch.device("meta"):
        return AutoModelForCausalLM.from_config(checkpoint.model_config())


def linears(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def test_llama_cpp_would_find_two_tensors_of_the_file(recipes):
    """Layer 1 is not layer 11: the expressions are searched in the names as llama-quantize does."""
    gguf = pytest.importorskip("gguf")
    with open_checkpoint() as checkpoint:
        names = [tensor.name for tensor in gguf.GGUFReader(checkpoint.path).tensors]
    words = recipes["llama.cpp"].arguments[1::2]
    patterns = [word.rpartition("=")[0] for word in words]
    hit = [name for name in names if any(re.search(pattern, name) for pattern in patterns)]
    assert sorted(hit) == ["blk.1.ffn_down.weight", "blk.11.ffn_down.weight"]
    assert all(word.endswith("=q8_0") for word in words)


def test_gptqmodels_expressions_match_two_modules(recipes, model):
    patterns = [key.removeprefix("-:") for key in recipes["gptqmodel"].arguments["dynamic"]]
    assert [n for n in linears(model) if any(re.match(pattern, n) for pattern in patterns)] == NAMED


def test_compressed_tensors_matches_all_linears_but_these(recipes, model):
    """llm-compressor chooses its modules by this function."""
    match = pytest.importorskip("compressed_tensors.utils.match")
    ignore = recipes["llm-compressor"].arguments["ignore"]
    chosen = {name for name, _ in match.match_named_modules(model, ["Linear"], ignore)}
    assert set(linears(model)) - chosen == {*NAMED, "lm_head"}


def test_transformers_skips_these_for_bitsandbytes(recipes, model):
    from transformers.quantizers.quantizers_utils import should_convert_module

    skip = recipes["bitsandbytes"].arguments["llm_int8_skip_modules"]
    assert {n for n in linears(model) if not should_convert_module(n, skip)} == {*NAMED, "lm_head"}


def test_torchao_leaves_these_as_they_are(recipes):
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=12, num_attention_heads=1
    )
    small = AutoModelForCausalLM.from_config(config)
    before = {name: small.get_submodule(name).weight.data for name in linears(small)}
    names = {"FqnToConfig": torchao.FqnToConfig, "Int8WeightOnlyConfig": torchao.Int8WeightOnlyConfig}
    exec(recipes["torchao"].text, {"quantize_": torchao.quantize_, "model": small, **names})
    same = [name for name in before if type(small.get_submodule(name).weight.data) is type(before[name])]
    assert [name for name in same if name != "lm_head"] == NAMED


def test_mlx_is_told_to_leave_these(recipes, model):
    asked = {}
    exec(recipes["mlx"].text, {"path": "", "convert": lambda path, **settings: asked.update(settings)})
    assert [n for n in linears(model) if not asked["quant_predicate"](n, None)] == NAMED


def test_the_command_prints_all_and_refuses_what_is_not_there(capsys):
    assert run(["recipe", "embedded", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["tool"] for each in said] == list(TOOLS)
    assert "model.layers.11.mlp.down_proj" in said[0]["modules"]
    assert run(["recipe", "embedded", "--for", "exl3"]) == 1
    assert "no recipe for 'exl3'" in capsys.readouterr().err
    assert run(["recipe", "embedded", "--weights", "model.norm.weight[3]"]) == 1
    assert "not the weight of one linear layer" in capsys.readouterr().err
    with open_checkpoint() as checkpoint, pytest.raises(SuperweightsError, match="no weight to protect"):
        recipe(checkpoint, [], "mlx")
