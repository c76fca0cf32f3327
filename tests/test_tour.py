"""The tour: each part is told as soon as it is there, and its numbers are those of transformers' own model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from letters import letters, speaking_llama
from torch.nn import functional
from transformers import AutoModelForCausalLM

from superweights.cli import run
from superweights.picture.letters import columns
from superweights.quantization import Blocks, Clip, Scheme, quantize_tensor
from superweights.record import Record
from superweights.verbs.tour import READ, ROUNDED_ON, tour

pytestmark = pytest.mark.tiny

TENSOR = "model.layers.0.mlp.down_proj.weight"
PLANTED = f"{TENSOR}[5, 7]"
TITLES = ["What it writes", "One number of ", "Inside", "In four bits", "Go on"]


@pytest.fixture(scope="module")
def speaker(tmp_path_factory) -> Path:
    """A tiny model with one large weight, which speaks letters."""
    folder = tmp_path_factory.mktemp("speaker") / "tiny model"
    model = speaking_llama()
    model.get_parameter(TENSOR).data[5, 7] = 30.0
    model.save_pretrained(folder)
    letters().save_pretrained(folder)
    return folder


def perplexity(model, ids: torch.Tensor) -> float:
    with torch.no_grad():
        logits = model(ids).logits[:, :-1]
    return float(functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).exp())


def test_the_numbers_are_those_of_transformers_own_model(speaker):
    told = []
    found = tour(speaker, [PLANTED], tell=lambda part: told.append(part.title)).findings
    assert [title[: len(start)] for title, start in zip(told, TITLES, strict=True)] == TITLES
    assert found.gravest == PLANTED
    model, ids = AutoModelForCausalLM.from_pretrained(speaker).eval(), READ.cut(letters())
    assert found.perplexity.value == pytest.approx(perplexity(model, ids), rel=1e-4)
    weight = model.get_parameter(TENSOR)
    weight.data[5, 7] = 0
    assert found.without.value == pytest.approx(perplexity(model, ids), rel=1e-4)
    weight.data[5, 7] = 30.0
    scheme = Scheme("int4", "none", Blocks("channel", ()), clip=Clip("z", 6), anchor="signed")
    for layer in model.model.layers:
        for module in (*layer.self_attn.children(), *layer.mlp.children()):
            if hasattr(module, "weight"):
                module.weight.data = quantize_tensor(module.weight.data, scheme).dequantize()
    ids = ROUNDED_ON.cut(letters())
    assert found.rounded.value == pytest.approx(perplexity(model, ids), rel=1e-3)


def test_the_command_prints_every_part_and_ends_with_three_commands(speaker, tmp_path, capsys):
    record = tmp_path / "tour.json"
    assert run(["tour", str(speaker), "--weights", PLANTED, "--out", str(record)]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith(tuple(TITLES))] != []
    assert f"Without {PLANTED} alone" in said
    commands = [line.strip() for line in said.splitlines() if line.strip().startswith("superweights ")]
    assert [command.split()[1] for command in commands] == ["find", "quantize", "explore"]
    assert all(f"'{speaker}'" in command for command in commands), "a name with a space is quoted"
    assert run(["show", str(record)]) == 0
    assert capsys.readouterr().out == said
    assert Record.read(record).findings["gravest"] == PLANTED
    assert run(["tour", str(speaker), "--weights", PLANTED, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == json.loads(record.read_text())["findings"]


def test_a_model_without_super_weights_is_told_so(tmp_path, capsys):
    speaking_llama().save_pretrained(tmp_path / "plain")
    letters().save_pretrained(tmp_path / "plain")
    assert run(["tour", str(tmp_path / "plain")]) == 0
    said = capsys.readouterr().out
    assert "No super weight" in said
    assert "superweights find" in said


@pytest.mark.unit
def test_bars_of_letters_are_as_high_as_their_numbers():
    assert columns([0.0, 0.5, 1.0], 1.0, height=2) == ["  █", " ██"]
    assert columns([0.25, 1 / 16], 1.0, height=2) == ["  ", "▄▁"]
    assert columns([2.0, -1.0], 1.0, height=1) == ["█ "]
    assert columns([0.0] * 50 + [1.0] * 50, 1.0, height=1, width=4) == ["  ██"]
