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
from superweights.formats.recipes import TOOLS, Recipe, recipe
from superweights.formats.recipes import recipes as recipes_of

pytestmark = pytest.mark.real

SIZES = {
    **{
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    **{"num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
}
SMALL = {
    "gpt2": {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
    "mixtral": {**SIZES, "num_local_experts": 4},
    "deepseek_v3": {
        **{
            **SIZES,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "kv_lora_rank": 16,
        },
        **{
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
            "num_experts_per_tok": 2,
        },
        **{"moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_shared_experts": 1},
    },
}

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


def test_torchao_leaves_these_as_they_are(recipes, tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import LlamaConfig, TorchAoConfig

    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 12}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_attention_heads=1)).save_pretrained(tmp_path)
    names = {"FqnToConfig": torchao.FqnToConfig, "Int8WeightOnlyConfig": torchao.Int8WeightOnlyConfig}
    names |= {
        "TorchAoConfig": TorchAoConfig,
        "AutoModelForCausalLM": AutoModelForCausalLM,
        "MODEL": str(tmp_path),
    }
    model = eval(recipes["torchao"].text, names)
    plain = [name for name in linears(model) if type(model.get_submodule(name).weight.data) is torch.Tensor]
    assert plain == [*NAMED, "lm_head"]


def test_mlx_is_told_to_leave_these(recipes, model):
    asked = {}
    exec(recipes["mlx"].text, {"MODEL": "", "convert": lambda path, **settings: asked.update(settings)})
    assert [n for n in linears(model) if not asked["quant_predicate"](n, None)] == NAMED


def test_the_command_prints_all_and_refuses_what_is_not_there(capsys):
    assert run(["recipe", "embedded", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["tool"] for each in said] == list(TOOLS)
    assert "blk.11.ffn_down.weight" in said[0]["modules"]
    assert all("model.layers.11.mlp.down_proj" in each["modules"] for each in said[1:])
    assert run(["recipe", "embedded", "--for", "exl3"]) == 1
    assert "no recipe for 'exl3'" in capsys.readouterr().err
    assert run(["recipe", "embedded", "--weights", "model.norm.weight[3]", "--for", "mlx"]) == 0
    assert "none: model.norm.weight is not the weight of one linear layer" in capsys.readouterr().out
    assert run(["recipe", "embedded", "--weights", "model.layers.1.mlp.down_proj.weight[9999, 0]"]) == 1
    capsys.readouterr()
    with open_checkpoint() as checkpoint, pytest.raises(SuperweightsError, match="no weight to protect"):
        recipe(checkpoint, [], "mlx")


LLAMA_CPP = {
    "llama": ("LlamaConfig", "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
    "mistral": ("MistralConfig", "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
    "gemma3_text": ("Gemma3TextConfig", "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
    "phi": ("PhiConfig", "model.layers.1.mlp.fc2.weight", "blk.1.ffn_down.weight"),
    "cohere": ("CohereConfig", "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
    "gpt2": ("GPT2Config", "transformer.h.1.mlp.c_proj.weight", "blk.1.ffn_down.weight"),
    "mixtral": ("MixtralConfig", "model.layers.1.mlp.experts.3.w2.weight", "blk.1.ffn_down_exps.weight"),
    "deepseek_v3": (
        "DeepseekV3Config",
        "model.layers.1.mlp.experts.3.down_proj.weight",
        "blk.1.ffn_down_exps.weight",
    ),
}


@pytest.mark.parametrize("family", LLAMA_CPP)
def test_every_family_gets_the_recipes_that_it_can_have(family, tmp_path):
    """What llama.cpp's converter makes of these tensors, written down here from its files."""
    import transformers

    pytest.importorskip("gguf")
    name, tensor, wanted = LLAMA_CPP[family]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(getattr(transformers, name)(**SMALL.get(family, SIZES))).save_pretrained(
        tmp_path
    )
    with open_checkpoint(str(tmp_path)) as checkpoint:
        if tensor not in checkpoint.tensors:
            tensor = tensor.replace(".mlp.experts", ".block_sparse_moe.experts")
        found = {each.tool: each for each in recipes_of(checkpoint, [Address(tensor, (1, 2))], tuple(TOOLS))}
    assert found["llama.cpp"].modules == (wanted,)
    alone = "exps" not in wanted
    assert all(isinstance(each, Recipe) == (alone or tool == "llama.cpp") for tool, each in found.items())
    if not alone:
        assert any("single ones cannot be typed" in note for note in found["llama.cpp"].notes)
        assert "not the weight of one linear layer" in found["mlx"].reason


def test_llama_quantizes_parser_takes_each_word(recipes):
    """Its rules (tools/quantize/quantize.cpp, `parse_tensor_type`): cut at the first "=", the name in small letters,
    the type one of ggml's; a file of them is cut at white space, and has no comments."""
    gguf = pytest.importorskip("gguf")
    words = recipes["llama.cpp"].arguments
    assert words[::2] == ["--tensor-type"] * len(NAMED)
    assert recipes["llama.cpp"].file.split() == words[1::2]
    for word in words[1::2]:
        name, _, kind = word.partition("=")
        assert name == name.lower()
        assert re.compile(name)
        assert kind.upper() in gguf.GGMLQuantizationType.__members__


def test_a_group_is_chosen_that_divides_every_layer(recipes, model):
    """llm-compressor refuses widths that a group does not divide, and W4A16's 128 does not divide 576."""
    args = pytest.importorskip("compressed_tensors.quantization")
    made = {}
    exec(recipes["llm-compressor"].text, {"QuantizationModifier": lambda **settings: made.update(settings)})
    (scheme,) = (args.QuantizationScheme.model_validate(each) for each in made["config_groups"].values())
    widths = {module.in_features for _, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert scheme.weights.group_size == 64
    assert 576 in widths
    assert all(width % scheme.weights.group_size == 0 for width in widths)


def test_a_file_is_written_for_the_tools_that_read_one(tmp_path, capsys):
    to = tmp_path / "recipe"
    assert run(["recipe", "embedded", "--for", "bitsandbytes", "--to", str(to)]) == 0
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig.from_dict(json.loads(to.read_text()))
    assert config.bnb_4bit_quant_type == "nf4"
    assert "lm_head" in config.llm_int8_skip_modules
    for command, said in (
        (["--for", "bitsandbytes"], "exists already"),
        (["--for", "mlx"], "reads no such file"),
        ([], "writes the file of one tool"),
    ):
        target = to if said == "exists already" else tmp_path / "other"
        assert run(["recipe", "embedded", *command, "--to", str(target)]) == 1
        assert said in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["recipe"]
