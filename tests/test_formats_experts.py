"""Mixtures of experts, packed: stacked parameters of many families compute what dense ones do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import save_tiny
from transformers import AutoModelForCausalLM

import superweights  # noqa: F401 - teaches transformers the packed format
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.formats.packed.experts import PackedExperts
from superweights.formats.packed.place import Piece, place_of

pytestmark = pytest.mark.tiny

IDS = torch.arange(24).reshape(2, 12)
# Matrix by matrix in the file and stacked by the loader; stacked in the file; transposed; with biases.
FAMILIES = ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "granitemoe"]


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()(IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_experts_compute_what_dense_ones_do(family, tmp_path):
    save_tiny(family, tmp_path / "source")
    for form in ("packed", "dense"):
        asked = ["quantize", str(tmp_path / "source"), "--to", str(tmp_path / form), "--format", form]
        assert run([*asked, "--group", "32", "--keep", "none", "--no-check"]) == 0
    dense = logits(tmp_path / "dense")
    torch.testing.assert_close(logits(tmp_path / "packed"), dense, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(dense, logits(tmp_path / "source"), atol=1e-3)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    packed = [module for module in model.modules() if isinstance(module, PackedExperts)]
    assert packed
    assert not [name for name, p in model.named_parameters() if p.dim() == 3], "no expert is dense"


def test_a_weight_inside_an_expert_is_kept_and_what_that_changes_is_measured(tmp_path, capsys):
    save_tiny("mixtral", tmp_path / "source")
    with open_checkpoint(str(tmp_path / "source")) as checkpoint:
        (name, *_) = [n for n in checkpoint.tensors if ".experts.2." in n and n.endswith("w2.weight")]
        value = checkpoint.element(name, (3, 5))
    to, kept = tmp_path / "to", f"{name}[3, 5]"
    asked = ["quantize", str(tmp_path / "source"), "--to", str(to), "--keep", kept, "--clip-z", "1"]
    assert run([*asked, "--window", "16", "--windows", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert found["kl"]["value"] > 0
    assert found["kl_plain"]["value"] != found["kl"]["value"]
    model = AutoModelForCausalLM.from_pretrained(to)
    experts = next(module for module in model.modules() if isinstance(module, PackedExperts))
    assert float(experts.dense("down_proj", torch.float32)[2, 3, 5]) == pytest.approx(value)


def quantize_mixtral(folder) -> list[str]:
    """The command that quantizes a tiny Mixtral of `folder`, without a check."""
    save_tiny("mixtral", folder / "source")
    places = [str(folder / "source"), "--to", str(folder / "to")]
    return ["quantize", *places, "--keep", "none", "--group", "32", "--no-check"]


def test_compressed_tensors_refuses_them_in_one_sentence(tmp_path, capsys):
    asked = quantize_mixtral(tmp_path)
    assert run([*asked, "--format", "compressed-tensors"]) == 1
    said = capsys.readouterr().err
    assert "experts" in said
    assert "--format packed" in said
    assert not (tmp_path / "to").exists()


def test_an_audit_of_packed_experts_is_refused_in_one_sentence(tmp_path, capsys):
    asked = quantize_mixtral(tmp_path)
    assert run(asked) == 0
    assert run(["audit", str(tmp_path / "to"), "--against", str(tmp_path / "source")]) == 1
    said = capsys.readouterr().err
    assert "experts" in said
    assert "hint:" in said


@pytest.mark.unit
def test_a_piece_is_found_by_its_values_and_put_back():
    pieces = [torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
    made = torch.stack([torch.cat(pieces[2 * e : 2 * e + 2]) for e in range(3)])
    assert place_of("x.1.w3", pieces[3], made) == Piece(1, 0, 4, False)
    assert place_of("x.0.w1", pieces[4].T, made) == Piece(2, 0, 0, True)
    again = torch.zeros_like(made)
    for number, piece in enumerate(pieces):
        place_of(f"x.{number // 2}", piece, made).put(piece, again)
    assert torch.equal(again, made)
    with pytest.raises(SuperweightsError, match="cannot be found again"):
        place_of("x.1.w3", pieces[3] + 1, made)
