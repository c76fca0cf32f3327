"""Audits: every format is read as its own library, or its definition bit by bit, reads it; broken is called broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import save_tiny
from safetensors.torch import load_file, save_file
from small import saved_llama
from transformers import AutoModelForCausalLM

from superweights.address import Address
from superweights.audits import audit
from superweights.audits.standing_in import Unquantized, standing_in
from superweights.checkpoint import open_checkpoint
from superweights.checkpoint.tensors import Settings
from superweights.cli import run
from superweights.decoding import Decoding
from superweights.errors import SuperweightsError
from superweights.stream import streaming

pytestmark = pytest.mark.tiny

TENSOR = "model.layers.0.mlp.down_proj.weight"
MODULE = TENSOR.removesuffix(".weight")
KEPT = Address(TENSOR, (5, 7))
IDS = torch.arange(48).reshape(4, 12)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("llama"), {TENSOR: {KEPT.index: 4.0}})


def stored_as(llama: Path, to: Path, method: dict, parts: dict[str, torch.Tensor]) -> Path:
    """The checkpoint with one matrix in another method's tensors."""
    to.mkdir()
    tensors = load_file(llama / "model.safetensors")
    del tensors[TENSOR]
    save_file({**tensors, **parts}, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((llama / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
    return to


def matrix_of(folder: Path):
    with open_checkpoint(str(folder)) as checkpoint:
        return Decoding(checkpoint).read(TENSOR)


def integers(bits: int, groups: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes `[64, 96]`, zero points and scales `[groups, 64]`, and the weight that they stand for."""
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (64, 96), generator=generator)
    zeros = torch.randint(1, 2**bits, (groups, 64), generator=generator)
    scales = torch.rand(groups, 64, generator=generator).half() * 0.1
    group = torch.arange(96) // (96 // groups)
    return codes, zeros, scales, (codes - zeros[group].T) * scales[group].T.float()


def word(codes: list[int], bits: int) -> int:
    """Codes in one 32-bit word, the first lowest, as a signed number."""
    value = sum(code << (bits * place) for place, code in enumerate(codes))
    return value - 2**32 if value >= 2**31 else value


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq_is_read_as_auto_gptq_defines_it(llama, tmp_path, bits, version):
    codes, zeros, scales, weight = integers(bits, 3)
    per = 32 // bits
    less = 1 if version == "gptq" else 0
    packed = [
        [word(codes[o, r * per : (r + 1) * per].tolist(), bits) for o in range(64)] for r in range(96 // per)
    ]
    packed_zeros = [
        [word((zeros[g, c * per : (c + 1) * per] - less).tolist(), bits) for c in range(64 // per)]
        for g in range(3)
    ]
    parts = {
        f"{MODULE}.qweight": torch.tensor(packed, dtype=torch.int32),
        f"{MODULE}.qzeros": torch.tensor(packed_zeros, dtype=torch.int32),
        f"{MODULE}.scales": scales,
        f"{MODULE}.g_idx": (torch.arange(96) // 32).to(torch.int32),
    }
    method = {"quant_method": "gptq", "bits": bits, "group_size": 32, "checkpoint_format": version}
    stored = matrix_of(stored_as(llama, tmp_path / "q", method, parts))
    assert torch.allclose(stored.weight, weight, atol=1e-6)
    assert torch.equal(stored.step[:, 40], scales[1].float())


def test_gptq_with_reordered_inputs_follows_its_own_groups(llama, tmp_path):
    codes, zeros, scales, _ = integers(8, 3)
    group = torch.randperm(96, generator=torch.Generator().manual_seed(1)) % 3
    packed = [[word(codes[o, r * 4 : (r + 1) * 4].tolist(), 8) for o in range(64)] for r in range(24)]
    packed_zeros = [
        [word((zeros[g, c * 4 : c * 4 + 4] - 1).tolist(), 8) for c in range(16)] for g in range(3)
    ]
    parts = {
        f"{MODULE}.qweight": torch.tensor(packed, dtype=torch.int32),
        f"{MODULE}.qzeros": torch.tensor(packed_zeros, dtype=torch.int32),
        f"{MODULE}.scales": scales,
        f"{MODULE}.g_idx": group.to(torch.int32),
    }
    method = {"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": True}
    wanted = (codes - zeros[group].T) * scales[group].T.float()
    assert torch.allclose(
        matrix_of(stored_as(llama, tmp_path / "q", method, parts)).weight, wanted, atol=1e-6
    )


def test_awq_is_read_as_auto_awq_defines_it(llama, tmp_path):
    codes, zeros, scales, weight = integers(4, 3)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    packed = [[word([int(codes[8 * c + o, i]) for o in order], 4) for c in range(8)] for i in range(96)]
    packed_zeros = [[word([int(zeros[g, 8 * c + o]) for o in order], 4) for c in range(8)] for g in range(3)]
    parts = {
        f"{MODULE}.qweight": torch.tensor(packed, dtype=torch.int32),
        f"{MODULE}.qzeros": torch.tensor(packed_zeros, dtype=torch.int32),
        f"{MODULE}.scales": scales,
    }
    method = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    assert torch.allclose(
        matrix_of(stored_as(llama, tmp_path / "q", method, parts)).weight, weight, atol=1e-6
    )


@pytest.mark.parametrize("format_", ["packed", "compressed-tensors", "dense"])
def test_what_stands_in_computes_as_transformers_own_loader_does(llama, tmp_path, format_):
    pytest.importorskip("compressed_tensors")
    options = ["--grid", "int4", "--zero-point", "none", "--group", "32", "--keep", "none"]
    to = tmp_path / "q"
    assert run(["quantize", str(llama), "--to", str(to), "--format", format_, *options]) == 0
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(to, dtype="float32").eval()(IDS).logits
    with (
        open_checkpoint(str(to)) as quantized,
        open_checkpoint(str(llama)) as original,
        streaming(standing_in(quantized, original), dtype="float32") as model,
    ):
        assert (model(IDS).logits - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_bitsandbytes_is_read_as_its_package_reads_it(llama, tmp_path, kind):
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    weight = load_file(llama / "model.safetensors")[TENSOR]
    if kind == "int8":
        codes, scb, _ = bnb.functional.int8_vectorwise_quant(weight.half())
        parts, wanted = {f"{MODULE}.weight": codes, f"{MODULE}.SCB": scb}, codes.float() * scb[:, None] / 127
        method = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    else:
        codes, state = bnb.functional.quantize_4bit(weight, quant_type=kind, compress_statistics=True)
        packed = {f"{TENSOR}.{name}": part for name, part in state.as_dict(packed=True).items()}
        parts, wanted = {TENSOR: codes, **packed}, bnb.functional.dequantize_4bit(codes, state)
        method = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert torch.allclose(
        matrix_of(stored_as(llama, tmp_path / "q", method, parts)).weight, wanted, atol=1e-6
    )


def test_intact_bent_and_broken_are_told_apart(llama, tmp_path):
    with open_checkpoint(str(llama)) as original:
        for factor, verdict in ((1.0, "intact"), (0.7, "bent"), (0.1, "broken"), (-1.0, "broken")):
            tensors = load_file(llama / "model.safetensors")
            tensors[TENSOR][KEPT.index] = 4.0 * factor
            folder = tmp_path / str(factor)
            folder.mkdir()
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_bytes((llama / "config.json").read_bytes())
            with open_checkpoint(str(folder)) as changed:
                found = audit(changed, original, [KEPT])
                assert found.verdict == found.weights[0].verdict == verdict
                assert found.weights[0].after == pytest.approx(4.0 * factor)
                with_run = audit(changed, original, [KEPT], IDS)
                assert with_run.comparison is not None
                if factor == 1.0:
                    assert with_run.comparison.kl.value == pytest.approx(0, abs=1e-9)
                    assert with_run.activation_after == with_run.activation_before


REFUSED = {
    "another method": ({"quant_method": "exl3"}, {}, "quantized by 'exl3' ("),
    "parts missing": (
        {"quant_method": "gptq", "bits": 4},
        {"qweight": (12, 64)},
        "has no tensor",
    ),
    "parts of another shape": (
        {"quant_method": "gptq", "bits": 4, "group_size": 32},
        {"qweight": (12, 64), "qzeros": (3, 2), "scales": (3, 64)},
        "is not stored as gptq stores it",
    ),
    "five bits": ({"quant_method": "gptq", "bits": 5}, {"qweight": (15, 64)}, "in ways of their own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_audited_is_refused(case, llama, tmp_path, capsys):
    method, shapes, words = REFUSED[case]
    parts = {f"{MODULE}.{name}": torch.zeros(shape, dtype=torch.int32) for name, shape in shapes.items()}
    folder = stored_as(llama, tmp_path / "q", method, parts)
    command = ["audit", str(folder), "--against", str(llama), "--weights", str(KEPT), "--weights-only"]
    assert run(command) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "hint:" in said


def test_the_command_prints_a_record_and_writes_it(llama, tmp_path, capsys):
    assert run(["quantize", str(llama), "--to", str(tmp_path / "q"), "--keep", str(KEPT)]) == 0
    capsys.readouterr()
    command = [
        "audit",
        str(tmp_path / "q"),
        "--against",
        str(llama),
        "--weights",
        str(KEPT),
        "--window",
        "16",
    ]
    assert run([*command, "--windows", "4", "--json", "--out", str(tmp_path / "a.json")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "a.json").read_text())
    assert said["findings"]["method"] == "superweights"
    assert said["findings"]["weights"][0]["address"] == str(KEPT)
    assert said["findings"]["weights"][0]["after"] == 4.0
    assert run([*command, "--weights-only"]) == 0
    assert "intact" in capsys.readouterr().out
    with open_checkpoint(str(llama)) as original, pytest.raises(SuperweightsError, match="nothing to audit"):
        audit(original, original, [])


EXPERTS = {
    "mixtral": [f"model.layers.1.block_sparse_moe.experts.{n}.w2.weight" for n in range(4)],
    "gpt_oss": ["model.layers.1.mlp.experts.down_proj"],
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_a_super_experts_error_stands_beside_that_of_the_others(kind, tmp_path):
    """Experts numbered one by one (Mixtral) and stacked (gpt-oss): expert 1 errs by 40 %, the others by 10."""
    save_tiny(kind, tmp_path / "original")
    tensors = load_file(tmp_path / "original" / "model.safetensors")
    names = [name for name in EXPERTS[kind] if name in tensors]
    matrices = list(tensors[names[0]]) if kind == "gpt_oss" else [tensors[name] for name in names]
    for number, matrix in enumerate(matrices):
        matrix *= 1.4 if number == 1 else 1.1
    folder = tmp_path / "changed"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((tmp_path / "original" / "config.json").read_bytes())
    own = Address(names[0], (1, 2, 3)) if kind == "gpt_oss" else Address(names[1], (2, 3))
    with open_checkpoint(str(tmp_path / "original")) as original, open_checkpoint(str(folder)) as changed:
        (fate,) = audit(changed, original, [own]).weights
    assert fate.expert == 1
    assert fate.matrix_error == pytest.approx(0.4, rel=1e-4)
    assert fate.others_error == pytest.approx(0.1, rel=1e-4)


def test_what_stands_in_for_a_quantized_checkpoint_has_all_that_settings_have():
    asked = [name for name in vars(Settings) if not name.startswith("_")]
    assert "processor" in asked
    assert [name for name in asked if not hasattr(Unquantized, name)] == []
