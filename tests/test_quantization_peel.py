"""A checkpoint split into a base and a side-car, read back by transformers and safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.quantization.attach import attached
from superweights.quantization.peel import peel, read_side_car

pytestmark = pytest.mark.tiny

TENSOR = "model.layers.0.mlp.down_proj.weight"
KEPT = [Address(TENSOR, (5, 7)), Address(TENSOR, (1, 40))]
TOKENS = torch.arange(10).reshape(1, 10)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, LlamaForCausalLM]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    weight = model.get_submodule(TENSOR.removesuffix(".weight")).weight.data
    for address in KEPT:
        weight[address.index] = 3.0
    model.save_pretrained(tmp_path / "original")
    return tmp_path / "original", model


@torch.no_grad()
def logits(model: LlamaForCausalLM) -> torch.Tensor:
    return model(TOKENS).logits


def test_the_base_is_the_checkpoint_with_zeros_and_transformers_loads_it(saved, tmp_path):
    path, model = saved
    with open_checkpoint(str(path)) as checkpoint:
        side_car = peel(checkpoint, KEPT, tmp_path / "base")
        assert side_car.fingerprint == checkpoint.fingerprint()
    assert [w.value for w in side_car.weights] == [3.0, 3.0]
    assert read_side_car(tmp_path / "base") == side_car
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype="auto").eval()
    assert base.dtype is torch.bfloat16
    state = model.state_dict()
    for name, tensor in base.state_dict().items():
        expected = state[name].clone()
        if name == TENSOR:
            for address in KEPT:
                expected[address.index] = 0
        assert torch.equal(tensor, expected), name
    assert not torch.equal(logits(base), logits(model))
    base, exact = base.float(), model.float()
    with attached(base, side_car):
        assert torch.allclose(logits(base), logits(exact), atol=1e-5)


def test_shards_are_indexed_as_transformers_reads_them(saved, tmp_path):
    path, model = saved
    seen = []
    with open_checkpoint(str(path)) as checkpoint:
        peel(
            checkpoint,
            KEPT,
            tmp_path / "base",
            shard_bytes=8_000,
            progress=lambda name, done, total: seen.append((name, done, total)),
        )
        total = len(checkpoint.tensors)
    assert [done for _, done, _ in seen] == list(range(1, total + 1))
    files = sorted((tmp_path / "base").glob("*.safetensors"))
    assert len(files) > 3
    names = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names += opened.keys()
    assert sorted(names) == sorted(name for name, _, _ in seen)
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    assert torch.equal(base.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_nothing_is_left_when_writing_fails(saved, tmp_path, monkeypatch):
    path, _ = saved

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("superweights.quantization.peel._header", full)
    before = sorted(tmp_path.iterdir())
    with open_checkpoint(str(path)) as checkpoint, pytest.raises(SuperweightsError, match="The disk is full"):
        peel(checkpoint, KEPT, tmp_path / "new" / "base")
    assert sorted(tmp_path.iterdir()) == before


def test_bad_input_is_refused_before_anything_is_written(saved, tmp_path):
    path, _ = saved
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    wrong = [
        ([], "base"),
        ([Address(TENSOR, (32, 0))], "base"),
        ([Address("model.absent.weight", (0, 0))], "base"),
        (KEPT, "full"),
    ]
    with open_checkpoint(str(path)) as checkpoint:
        for addresses, folder in wrong:
            with pytest.raises(SuperweightsError, match=r"hint: \S"):
                peel(checkpoint, addresses, tmp_path / folder)
    assert not (tmp_path / "base").exists()
    with pytest.raises(SuperweightsError, match="holds no"):
        read_side_car(tmp_path / "full")
