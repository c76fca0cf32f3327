"""Estimates: shapes against models that are built, multiplications against torch's own counter, prices by hand."""

from __future__ import annotations

import json
import math

import families
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

import superweights
from superweights.cli import run
from superweights.costs import Machine, Work, price, shape_of
from superweights.errors import SuperweightsError

pytestmark = pytest.mark.tiny

GIVEN = {"multiplications": 1e9, "reading": 1e8}


def saved(folder, **more):
    """A config alone, of a Llama of seven billion parameters unless told otherwise."""
    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008, "vocab_size": 32000}
    LlamaConfig(**{**sizes, "num_attention_heads": 32, "dtype": "bfloat16", **more}).save_pretrained(folder)
    return folder


def test_a_model_without_attention_has_a_price(tmp_path):
    families.tiny_model("mamba").config.save_pretrained(tmp_path)
    assert shape_of(tmp_path).attended == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt", "qwen2"])
def test_a_shape_is_that_of_the_model_and_its_multiplications_are_what_torch_counts(family, tmp_path):
    model = families.tiny_model(family)
    model.config.save_pretrained(tmp_path)
    shape = shape_of(tmp_path)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    rows, tokens = 2, 16
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=torch.ones(rows, tokens, dtype=torch.long), use_cache=False)
    ours = rows * tokens * (shape.per_token + shape.attended * tokens)
    assert 2 * ours == pytest.approx(counted.get_total_flops(), rel=0.06), (
        "a multiplication and an addition each"
    )


def test_of_a_mixture_a_token_meets_the_experts_that_it_is_sent_to(tmp_path):
    model = families.tiny_model("mixtral")
    model.config.save_pretrained(tmp_path)
    shape = shape_of(tmp_path)
    experts = sum(p.numel() for p in model.parameters() if p.dim() == 3)
    assert experts > 0
    chosen, count = model.config.num_experts_per_tok, model.config.num_local_experts
    rest = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name)
    assert shape.per_token == rest + experts * chosen // count


def test_published_sizes_are_priced_from_the_config_alone(tmp_path):
    shape = shape_of(saved(tmp_path))
    assert shape.parameters == 6_738_415_616, "Llama 7B, as its paper's checkpoint has it"
    assert shape.blocks == 32
    assert shape.largest_block == 202_383_360


def test_a_price_is_what_one_computes_by_hand(tmp_path):
    shape = shape_of(
        saved(tmp_path, hidden_size=64, num_hidden_layers=2, intermediate_size=128, vocab_size=100)
    )
    work = Work(passes=3, windows=10, edited=4, share=0.5, at_once=2, tokens=8)
    alone = price(shape, Machine("cuda", 1, 2, 1e6, math.inf, 1e5, measured=False), work=work)
    assert alone.read_bytes == 2 * (3 * (shape.parameters - shape.outside) + shape.outside)
    assert alone.multiplications == 12 * 8 * (shape.per_token + 8 * shape.attended)
    assert alone.seconds == pytest.approx(alone.read_bytes / 1e5 + alone.multiplications / 1e6)
    two = price(shape, Machine("cuda", 2, 2, 1e6, math.inf, 1e5, measured=False), work=work)
    assert two.seconds == pytest.approx(alone.seconds / 2)
    assert two.whole_bytes == alone.whole_bytes // 2


def test_it_is_measured_here_and_told_to_people_and_programs(tmp_path, capsys):
    folder = str(saved(tmp_path, hidden_size=64, num_hidden_layers=2, intermediate_size=128, vocab_size=100))
    assert run(["estimate", folder, "--for", "score", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["machine"]["measured"]
    assert held["machine"]["multiplications"] > 1e6
    assert run(["estimate", folder, "--on", "8", "--multiplications", "1e14", "--reading", "1e10"]) == 0
    said = capsys.readouterr().out
    assert "on 8 devices" in said
    assert "as given" in said
    assert superweights.estimate(folder, "score", windows=2, window=8, **GIVEN).work.windows == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"on": "tpu"}, "There is no machine 'tpu'"),
        ({"on": "0"}, "There is no machine '0'"),
        ({"command": "guess"}, "There is no price of 'guess'"),
        ({"command": "find", "windows": 3}, "chooses its windows itself"),
    ],
)
def test_what_cannot_be_priced_is_told(asked, said, tmp_path):
    folder = saved(tmp_path, hidden_size=64, num_hidden_layers=2, intermediate_size=128, vocab_size=100)
    with pytest.raises(SuperweightsError, match=said):
        superweights.estimate(folder, **{**GIVEN, **asked})


def test_a_folder_without_a_config_and_a_machine_without_a_gpu_are_told(tmp_path):
    with pytest.raises(SuperweightsError, match=r"has no config\.json"):
        superweights.estimate(tmp_path)
    if not torch.accelerator.is_available():
        folder = saved(tmp_path, hidden_size=64, num_hidden_layers=2, intermediate_size=128, vocab_size=100)
        with pytest.raises(SuperweightsError, match=r"no gpu here") as told:
            superweights.estimate(folder, on="gpu")
        assert "--multiplications" in told.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "config.json"), ('{"model_type": "no-such"}', "no-such"), ('{"model_type": "bert"', "JSON")],
)
def test_a_damaged_config_is_told(text, said, tmp_path, capsys):
    (tmp_path / "config.json").write_text(text)
    assert run(["estimate", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "hint:" in err


def test_a_path_where_nothing_is_is_no_name_on_the_hub(tmp_path, capsys):
    assert run(["estimate", str(tmp_path / "nothing")]) == 1
    assert "There is no file or folder" in capsys.readouterr().err


def test_no_weight_is_made(tmp_path):
    """A shape of 405 billion parameters would not fit: what is built is empty."""
    shape = shape_of(
        saved(
            tmp_path,
            hidden_size=16384,
            num_hidden_layers=126,
            intermediate_size=53248,
            num_attention_heads=128,
            num_key_value_heads=8,
            vocab_size=128256,
        )
    )
    assert shape.parameters == pytest.approx(405e9, rel=0.01)
