"""`superweights quantize`, `peel` and `attach` as a person meets them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small import saved_llama
from transformers import AutoModelForCausalLM

import superweights  # noqa: F401 - teaches transformers the packed format
from superweights.artefacts.place import MANIFEST
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.formats.packed.linear import PackedLinear

pytestmark = pytest.mark.tiny

TENSOR = "model.layers.0.mlp.down_proj.weight"
KEPT = f"{TENSOR}[5, 7]"
IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("llama"), {TENSOR: {(5, 7): 4.0}})


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()(IDS).logits


def test_a_packed_model_is_written_said_and_read_by_every_command(llama, tmp_path, capsys):
    to, record = tmp_path / "packed", tmp_path / "record.json"
    assert run(["quantize", str(llama), "--to", str(to), "--keep", KEPT, "--out", str(record), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(record.read_text())
    (protected,) = said["findings"]["protected"]
    assert (protected["address"], protected["before"]) == (KEPT, 4.0)
    assert said["findings"]["tensors_rounded"] == 14
    assert said["scores"][0]["value"] == pytest.approx(
        8 * (to / "superweights.safetensors").stat().st_size / sum_of_sizes(llama)
    )
    model = AutoModelForCausalLM.from_pretrained(to)
    assert isinstance(model.model.layers[0].mlp.down_proj, PackedLinear)
    with open_checkpoint(str(to)) as packed:
        assert "superweights" in packed.config["quantization_config"]["quant_method"]


def sum_of_sizes(folder: Path) -> int:
    with open_checkpoint(str(folder)) as checkpoint:
        return sum(info.size for info in checkpoint.tensors.values())


def test_what_is_not_rounded_can_be_stored_smaller_but_gains_stay(llama, tmp_path):
    assert run(["quantize", str(llama), "--to", str(tmp_path / "p"), "--no-check"]) == 0
    with safe_open(tmp_path / "p" / "superweights.safetensors", framework="pt") as file:
        assert file.get_tensor("model.embed_tokens.weight").dtype == torch.bfloat16
        assert file.get_tensor("model.norm.weight").dtype == torch.float32


def test_the_three_formats_of_one_scheme_compute_the_same(llama, tmp_path):
    options = ["--grid", "int4", "--zero-point", "none", "--group", "32", "--keep", "none"]
    for format_ in ("dense", "packed", "compressed-tensors"):
        if format_ == "compressed-tensors":
            pytest.importorskip("compressed_tensors")
        assert (
            run(["quantize", str(llama), "--to", str(tmp_path / format_), "--format", format_, *options]) == 0
        )
    dense = logits(tmp_path / "dense")
    assert (logits(tmp_path / "packed") - dense).abs().max() < 1e-5
    assert (logits(tmp_path / "compressed-tensors") - dense).abs().max() < 1e-5
    assert (logits(llama) - dense).abs().max() > 1e-3


def test_a_plan_is_saved_and_used_again(llama, tmp_path):
    plan = tmp_path / "plan.json"
    first = ["quantize", str(llama), "--to", str(tmp_path / "a"), "--format", "dense", "--keep", KEPT]
    assert run([*first, "--save-plan", str(plan)]) == 0
    second = ["quantize", str(llama), "--to", str(tmp_path / "b"), "--format", "dense", "--plan", str(plan)]
    assert run(second) == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()


REFUSED = {
    "no such format": (["--format", "exl2"], "There is no format 'exl2'"),
    "no such grid": (["--grid", "int9"], "int9"),
    "a tensor that is not there": (["--keep", "model.layers.9.x.weight[0, 0]"], "model.layers.9.x.weight"),
    "an index outside": (["--keep", f"{TENSOR}[64, 0]"], "[64, 0]"),
    "no GGUF file": (["--format", "gguf"], "no GGUF file"),
    "a zero point in compressed-tensors": (
        ["--format", "compressed-tensors", "--zero-point", "float"],
        "cannot store a float zero point",
    ),
    "a fit that is none": (["--fit", "magic"], "magic"),
    "embeddings that the format cannot have": (
        ["--embeddings", "int8", "--format", "compressed-tensors"],
        "--embeddings int8 is not possible",
    ),
    "embeddings that are none": (["--embeddings", "int3"], "--embeddings int3"),
    "a plan that is none": (["--plan", "PLAN"], "plan.json: keep is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_sentence_and_leaves_nothing(case, llama, tmp_path, capsys):
    options, words = REFUSED[case]
    (tmp_path / "plan.json").write_text("{}")
    options = [str(tmp_path / "plan.json") if each == "PLAN" else each for each in options]
    assert run(["quantize", str(llama), "--to", str(tmp_path / "to"), *options]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "hint:" in said
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_folder_that_holds_something_and_a_quantized_source_are_refused(llama, tmp_path, capsys):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "precious").touch()
    assert run(["quantize", str(llama), "--to", str(tmp_path / "to")]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert run(["quantize", str(llama), "--to", str(tmp_path / "packed"), "--keep", "none"]) == 0
    assert run(["quantize", str(tmp_path / "packed"), "--to", str(tmp_path / "twice")]) == 1
    said = capsys.readouterr().err
    assert "quantized already" in said
    assert not (tmp_path / "twice").exists()


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(llama, tmp_path):
    """Killed between two shards, the work stands in a folder that nothing loads, and is finished later."""
    code = (
        "import os, sys; from superweights.formats import writing; from superweights.cli import run\n"
        "whole, count = writing._write_shard, []\n"
        "def slow(*a):\n"
        "    count.append(1)\n"
        "    if len(count) == 2: print('shard', flush=True); sys.stdin.readline()\n"
        "    whole(*a)\n"
        "writing._write_shard = slow; writing.write_folder.__kwdefaults__['shard_bytes'] = 60_000\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    arguments = ["quantize", str(llama), "--to", str(tmp_path / "to"), "--format", "dense", "--keep", KEPT]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "shard\n"
        (partial,) = tmp_path.glob(".to.*.partial")
        until = time.monotonic() + 30
        while not json.loads((partial / MANIFEST).read_text())["files"]:  # the first is being sealed
            assert time.monotonic() < until
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert not (tmp_path / "to").exists()
    first = min(partial.glob("*.safetensors"))
    stamp = first.stat().st_mtime_ns
    time.sleep(0.01)
    rest = code.replace("sys.stdin.readline()", "")
    subprocess.run([sys.executable, "-c", rest, *arguments], check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "to" / first.name).stat().st_mtime_ns == stamp, "the finished shard was written again"
    assert run(["quantize", *arguments[1:3], str(tmp_path / "whole"), *arguments[4:]]) == 0
    assert torch.equal(logits(tmp_path / "to"), logits(tmp_path / "whole"))


def test_peel_and_attach_give_the_model_back(llama, tmp_path, capsys):
    peeled, base, adapter = (tmp_path / name for name in ("peeled", "base", "adapter"))
    assert run(["peel", str(llama), "--to", str(peeled), "--weights", KEPT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"][0]["value"] == 4.0
    quantized = ["quantize", str(peeled), "--to", str(base), "--format", "dense", "--keep", "none"]
    assert run(quantized) == 0
    capsys.readouterr()
    attached = ["attach", str(base), "--side-car", str(peeled), "--to", str(adapter)]
    assert run([*attached, "--json"]) == 0
    lacking = json.loads(capsys.readouterr().out)["lacking"][KEPT]
    with open_checkpoint(str(base)) as checkpoint:
        assert checkpoint.element(TENSOR, (5, 7)) + lacking == pytest.approx(4.0, abs=1e-6)
    assert (adapter / "adapter_model.safetensors").is_file()
    assert run(attached) == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert run(["attach", str(llama), "--side-car", str(peeled), "--to", str(tmp_path / "none")]) == 1
    assert "exactly" in capsys.readouterr().err
    assert run(["attach", str(base), "--side-car", str(llama), "--to", str(tmp_path / "none")]) == 1
    assert "holds no super_weights.json" in capsys.readouterr().err
    shutil.copytree(peeled, tmp_path / "hostile")
    (tmp_path / "hostile" / MANIFEST).unlink()  # what stands behind it must hold by itself
    (tmp_path / "hostile" / "super_weights.json").write_text('{"schema_version": 1, "weights": [{}]}')
    assert (
        run(["attach", str(base), "--side-car", str(tmp_path / "hostile"), "--to", str(tmp_path / "none")])
        == 1
    )
    assert "super_weights.json: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
