"""What was written is put on the hub with a card that tells what was done; nothing is tried without a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from fake_hub import FakeHub
from huggingface_hub import ModelCard, constants
from small import saved_llama
from transformers import AutoModelForCausalLM

import superweights
from superweights.artefacts.manifest import verify
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.formats.packed.linear import PackedLinear

pytestmark = pytest.mark.tiny

TENSOR = "model.layers.0.mlp.down_proj.weight"
KEPT = f"{TENSOR}[5, 7]"


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("llama"), {TENSOR: {(5, 7): 4.0}})


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[FakeHub]:
    server = FakeHub({"config.json": b"{}"})
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()
    server.shutdown()


def test_a_packed_model_is_pushed_and_what_arrives_loads(llama, hub, tmp_path, capsys):
    asked = [
        "quantize",
        str(llama),
        "--to",
        str(tmp_path / "q"),
        "--keep",
        KEPT,
        "--window",
        "16",
        "--windows",
        "2",
    ]
    assert run([*asked, "--push-to-hub", "ada/tiny-int4", "--private"]) == 0
    assert f"{hub.url}/ada/tiny-int4" in capsys.readouterr().err
    assert hub.made["ada/tiny-int4"]["visibility"] == "private"
    arrived = tmp_path / "arrived"
    for name, data in hub.pushed["ada/tiny-int4"].items():
        (arrived / name).parent.mkdir(parents=True, exist_ok=True)
        (arrived / name).write_bytes(data)
    verify(arrived, thoroughly=True)
    model = AutoModelForCausalLM.from_pretrained(arrived)
    assert isinstance(model.model.layers[0].mlp.down_proj, PackedLinear)
    card = ModelCard.load(arrived / "README.md")
    assert card.data.library_name == "transformers"
    assert "quantized" in card.data.tags
    assert "superweights quantize" in card.text
    assert f"| `{KEPT}` | 4 |" in card.text
    assert "bits per weight" in card.text
    assert "KL(original || written)" in card.text
    assert 'from_pretrained("ada/tiny-int4"' in card.text


def test_a_folder_is_pushed_later_with_its_record(llama, hub, tmp_path):
    asked = ["quantize", str(llama), "--to", str(tmp_path / "q"), "--keep", KEPT, "--format", "dense"]
    assert run([*asked, "--no-check", "--out", str(tmp_path / "q.json")]) == 0
    address = superweights.push(tmp_path / "q", "ada/later", tmp_path / "q.json")
    assert address == f"{hub.url}/ada/later"
    pushed = hub.pushed["ada/later"]
    assert pushed["model.safetensors"] == (tmp_path / "q" / "model.safetensors").read_bytes()
    assert hub.made["ada/later"].get("visibility") in ("public", None)
    assert "bits per weight" in pushed["README.md"].decode()
    superweights.push(tmp_path / "q", "ada/plain")
    assert KEPT in hub.pushed["ada/plain"]["README.md"].decode(), "the plan in the folder tells it"


def test_an_adapter_is_pushed_as_one(hub, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base", "r": 1}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    assert run(["push", str(folder), "ada/adapter"]) == 0
    card = ModelCard(hub.pushed["ada/adapter"]["README.md"].decode())
    assert card.data.library_name == "peft"
    assert card.data.base_model == "org/base"
    assert 'PeftModel.from_pretrained(base, "ada/adapter")' in card.text


REFUSED = {
    "no name": ("int4", "is no name on the hub"),
    "a repository that holds something": ("org/model", "holds config.json already"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_pushed_is_said_before_anything_is_written(case, llama, hub, tmp_path, capsys):
    name, words = REFUSED[case]
    asked = ["quantize", str(llama), "--to", str(tmp_path / "q"), "--keep", "none", "--push-to-hub", name]
    assert run(asked) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "hint:" in said
    assert not (tmp_path / "q").exists()
    assert not hub.made


def test_no_token_is_one_sentence(llama, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    asked = ["quantize", str(llama), "--to", str(tmp_path / "q"), "--push-to-hub", "ada/x"]
    assert run(asked) == 1
    said = capsys.readouterr().err
    assert "no token of the Hugging Face Hub" in said
    assert "hf auth login" in said
    assert not hub.seen
    assert not (tmp_path / "q").exists()


def test_a_damaged_folder_and_an_absent_one_are_refused(llama, hub, tmp_path):
    assert run(["quantize", str(llama), "--to", str(tmp_path / "q"), "--keep", "none", "--no-check"]) == 0
    (tmp_path / "q" / "config.json").write_text("{}")
    with pytest.raises(SuperweightsError, match="not what was written"):
        superweights.push(tmp_path / "q", "ada/damaged")
    assert not hub.pushed
    with pytest.raises(SuperweightsError, match="nothing at"):
        superweights.push(tmp_path / "none", "ada/none")
