"""Packed checkpoints: every grid packs and unpacks, transformers loads them, and nobody loads them by mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import superweights
from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.formats import writing
from superweights.formats.dense import write_dense
from superweights.formats.packed.linear import PackedLinear
from superweights.formats.packed.packing import pack, pack_bits, unpack, unpack_bits
from superweights.formats.packed.writing import write_packed
from superweights.quantization import Blocks, Clip, Scheme, quantize_tensor
from superweights.quantization.plan import Plan
from superweights.stream.linears import linear_tensors

pytestmark = pytest.mark.tiny

LLAMA = LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
GPT2 = GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64)
KEPT = Address("model.layers.0.mlp.down_proj.weight", (5, 7))
INT4 = Scheme("int4", blocks=Blocks("group", (32,)), clip=Clip("z", 3), fit="centred")
IDS = torch.arange(24).reshape(2, 12)


def saved(config, folder: Path, dtype=torch.float32) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    if config is LLAMA:
        model.get_parameter(KEPT.tensor).data[KEPT.index] = 4.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved(LLAMA, tmp_path_factory.mktemp("llama"))


def written(folder: Path, to: Path, scheme: Scheme = INT4, keep=(KEPT,), write=write_packed, **how) -> Path:
    with open_checkpoint(str(folder)) as checkpoint:
        plan = Plan.uniform(linear_tensors(checkpoint), scheme, keep)
        return write(checkpoint, plan, to, **how).folder


def logits(folder: Path, **loading) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, **loading).eval()
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.unit
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_the_same_after_packing(bits):
    codes = torch.randint(2**bits, (1003,), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    packed = pack_bits(codes, bits)
    assert len(packed) == -(-1003 * bits // 8)
    assert torch.equal(unpack_bits(packed, bits, 1003), codes)


SCHEMES = [
    *(Scheme(f"int{bits}", blocks=Blocks("group", (40,))) for bits in range(2, 9)),
    Scheme("int8", zero_point="none", blocks=Blocks("channel", ())),
    Scheme("int4", zero_point="integer", blocks=Blocks("tile", (8, 24))),
    Scheme("int3", zero_point="none", anchor="signed", blocks=Blocks("tensor", ())),
    Scheme("nf4", zero_point="none"),
    Scheme("nf3"),
    Scheme("fp8_e4m3", zero_point="none", scale_dtype="float32"),
    Scheme("mxfp4", zero_point="none", blocks=Blocks("group", (32,))),
    Scheme("nvfp4", zero_point="none", blocks=Blocks("group", (16,))),
    Scheme.as_published("int4", 512),
    Scheme.as_published("int4", 500),
]


@pytest.mark.unit
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("out_axis", [0, 1])
def test_every_scheme_unpacks_to_the_same_values(scheme, out_axis):
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    quantized = quantize_tensor(weight, scheme, [(3, 4)], out_axis)
    again = unpack(pack(quantized), scheme, weight.shape, weight.dtype, out_axis)
    assert torch.equal(again.dequantize(), quantized.dequantize())
    assert torch.equal(again.dequantize(kept=False), quantized.dequantize(kept=False))


@pytest.mark.unit
def test_the_packed_codes_take_the_bits_that_are_counted():
    weight = torch.randn(48, 64)
    for bits in range(2, 9):
        quantized = quantize_tensor(weight, Scheme(f"int{bits}", blocks=Blocks("group", (64,))))
        parts = pack(quantized)
        stored = sum(part.nbytes for part in parts.values()) * 8
        assert stored == quantized.stored_bits.total


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("grid", ["int4", "nf4"])
def test_the_packed_model_predicts_what_the_dense_one_does(config, grid, tmp_path):
    scheme = INT4 if grid == "int4" else Scheme("nf4", zero_point="none", blocks=Blocks("group", (24,)))
    keep = (KEPT,) if config is LLAMA else ()
    source = saved(config, tmp_path / "source")
    packed = written(source, tmp_path / "packed", scheme, keep)
    dense = written(source, tmp_path / "dense", scheme, keep, write_dense)
    torch.testing.assert_close(logits(packed), logits(dense), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(dense), logits(source), atol=1e-3)


def test_it_is_smaller_and_loads_onto_a_device_map(llama, tmp_path):
    packed = written(llama, tmp_path / "packed")
    assert torch.equal(logits(packed, device_map="auto"), logits(packed))
    model = AutoModelForCausalLM.from_pretrained(packed)
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(layers) == 14
    assert sum(layer.codes.nbytes for layer in layers) * 8 == 4 * sum(
        layer.in_features * layer.out_features for layer in layers
    )
    kept = model.model.layers[0].mlp.down_proj
    assert kept.dequantize(torch.float32)[KEPT.index] == 4.0
    assert kept.quantized().dequantize(kept=False)[KEPT.index] != 4.0


@pytest.mark.parametrize(
    "scheme", [INT4, Scheme("int8", zero_point="none", blocks=Blocks("channel", ()))], ids=["int4", "int8"]
)
def test_the_kernels_give_what_dequantizing_gives_in_bfloat16(llama, tmp_path, scheme):
    packed = written(llama, tmp_path / "packed", scheme)
    layer = AutoModelForCausalLM.from_pretrained(packed, dtype=torch.bfloat16).model.layers[0].mlp.down_proj
    x = torch.randn(3, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = x.float() @ layer.dequantize(torch.float32).T
    y = layer(x)
    assert layer._kernel is not None
    assert (y.float() - exact).abs().max() < 0.02 * exact.abs().max()
    # The kept weight acts exactly: its neuron alone, at a power of two, gives its value.
    one = torch.zeros(1, 96, dtype=torch.bfloat16)
    one[0, KEPT.index[1]] = 1
    assert layer(one)[0, KEPT.index[0]].float().item() == pytest.approx(4.0, rel=2**-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "scheme", [INT4, Scheme("int8", zero_point="none", blocks=Blocks("channel", ()))], ids=["int4", "int8"]
)
def test_a_kernels_form_dequantizes_to_the_same_weights_and_replaces_the_codes(
    llama, tmp_path, scheme, dtype
):
    packed = written(llama, tmp_path / "packed", scheme)
    layer = AutoModelForCausalLM.from_pretrained(packed, dtype=dtype).model.layers[0].mlp.down_proj
    before = layer.dequantize(torch.float32)
    x = torch.randn(200, 96, generator=torch.Generator().manual_seed(2)).to(dtype)
    y = layer(x).float()
    assert layer.codes is None
    after = layer.dequantize(torch.float32)
    slack = 1e-6 if dtype == torch.float32 else 2**-7
    assert (after - before).abs().max() < slack * before.abs().max()
    assert after[KEPT.index] == 4.0
    assert (y - x.float() @ before.T).abs().max() < max(slack, 1e-5) * y.abs().max()
    with pytest.raises(SuperweightsError, match="cannot move"):
        layer.to("meta")


def test_without_our_import_transformers_refuses_and_loads_nothing(llama, tmp_path):
    packed = str(written(llama, tmp_path / "packed"))
    code = f"""
import transformers
for reader in (transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM):
    try:
        reader.from_pretrained({packed!r})
        print("loaded")
    except (ValueError, OSError) as error:
        print("refused", type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["refused", "ValueError", "refused", "OSError"], done.stderr


@pytest.mark.parametrize("first", ["superweights, transformers", "transformers, superweights"])
def test_transformers_learns_it_in_whichever_order_they_are_imported(llama, tmp_path, first):
    packed = written(llama, tmp_path / "packed")
    code = (
        f"import {first}; from transformers import AutoModelForCausalLM;"
        f"m = AutoModelForCausalLM.from_pretrained({str(packed)!r}); print(type(m.model.layers[0].mlp.up_proj))"
    )
    root = str(Path(superweights.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert "PackedLinear" in done.stdout, done.stderr


def test_importing_superweights_alone_imports_neither_torch_nor_transformers():
    code = "import superweights, sys; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    root = str(Path(superweights.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_a_packed_model_cannot_be_saved_as_if_it_were_dense(llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(written(llama, tmp_path / "packed"))
    with pytest.raises(ValueError, match=r"serializ|quantiz"):
        model.save_pretrained(tmp_path / "again")


def test_many_shards_give_the_same_model(llama, tmp_path):
    one, many = written(llama, tmp_path / "one"), written(llama, tmp_path / "many", shard_bytes=20_000)
    assert len(list(many.glob("superweights-*.safetensors"))) > 2
    assert torch.equal(logits(many), logits(one))


def test_a_stopped_run_goes_on_where_it_was_and_ends_the_same(llama, tmp_path, monkeypatch):
    whole = written(llama, tmp_path / "whole", shard_bytes=20_000)
    save, count = writing.save_file, []

    def stop_at_the_third(*args, **kwargs):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        save(*args, **kwargs)

    monkeypatch.setattr(writing, "save_file", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        written(llama, tmp_path / "again", shard_bytes=20_000)
    assert not (tmp_path / "again").exists()
    finished = sorted(tmp_path.glob(".again.*.partial/*.safetensors"))
    times = [path.stat().st_mtime_ns for path in finished]
    assert len(finished) == 2
    monkeypatch.setattr(writing, "save_file", save)
    again = written(llama, tmp_path / "again", shard_bytes=20_000)
    assert [(again / path.name).stat().st_mtime_ns for path in finished] == times
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in whole.iterdir())
    for path in again.glob("*.safetensors"):
        assert path.read_bytes() == (whole / path.name).read_bytes()


def test_a_full_disk_leaves_nothing(llama, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "save_file", full)
    with pytest.raises(SuperweightsError, match="The disk is full"):
        written(llama, tmp_path / "full")
    assert list(tmp_path.iterdir()) == []


def test_bad_plans_are_refused_before_anything_is_written(llama, tmp_path):
    with open_checkpoint(str(llama)) as checkpoint:
        tensors = linear_tensors(checkpoint)
        cases = {
            "no tensor": Plan({"model.layers.9.mlp.down_proj.weight": INT4}),
            "rounds nothing": Plan({}),
            "outside": Plan.uniform(tensors, INT4, [Address(KEPT.tensor, (64, 0))]),
            "does not round its tensor": Plan.uniform(tensors, INT4, [Address("model.norm.weight", (0,))]),
            "do not divide": Plan.uniform(tensors, Scheme("int4", blocks=Blocks("run", (1000,)))),
        }
        for said, plan in cases.items():
            with pytest.raises(SuperweightsError, match=said):
                write_packed(checkpoint, plan, tmp_path / "out")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        with pytest.raises(SuperweightsError, match="not an empty folder"):
            write_packed(checkpoint, Plan.uniform(tensors, INT4), tmp_path / "full")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_nan_is_named_with_its_tensor(tmp_path):
    source = saved(LLAMA, tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(source)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(source)
    with pytest.raises(SuperweightsError, match=r"layers\.1\.mlp\.up_proj\.weight.*nan"):
        written(source, tmp_path / "out")


@pytest.mark.unit
def test_plans_survive_json_and_damaged_ones_are_refused():
    plan = Plan({"a": INT4, "b": Scheme("int8"), "c": INT4}, (Address("a", (1, 2)),), {"b": 1})
    assert Plan.from_json(plan.to_json()) == plan
    data = json.loads(plan.to_json())
    for damage in ({**data, "tensors": {"a": 7}}, {**data, "tensors": {"a": -1}}, {"schemes": []}, [], 3):
        with pytest.raises(SuperweightsError, match="the plan: "):
            Plan.from_json(json.dumps(damage))
