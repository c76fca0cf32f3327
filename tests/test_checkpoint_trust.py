"""What a checkpoint could do to us: pickled programs and model code run only when asked for."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError

pytestmark = pytest.mark.unit
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.t": torch.arange(6).reshape(2, 3).T.to(torch.bfloat16)}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickles_are_refused_unless_asked_for_and_then_read(tmp_path, zipped):
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(SuperweightsError, match="pickled weights") as caught:
            open_checkpoint(path)
        assert "allow_pickle" in caught.value.hint
        with open_checkpoint(path, allow_pickle=True) as checkpoint:
            assert checkpoint.format == "pickle"
            for name, tensor in TENSORS.items():
                info = checkpoint.tensors[name]
                assert (info.shape, info.torch_dtype, info.nbytes) == (
                    tuple(tensor.shape),
                    tensor.dtype,
                    tensor.nbytes,
                )
                assert torch.equal(checkpoint.read(name), tensor)
                assert checkpoint.element(name, (1, 1)) == tensor[1, 1]
                assert torch.equal(checkpoint.read_rows(name, 1, 2), tensor[1:2])


def test_edits_of_a_pickled_tensor_end_with_release(tmp_path):
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    before = (tmp_path / "pytorch_model.bin").read_bytes()
    with open_checkpoint(tmp_path, allow_pickle=True) as checkpoint:
        fingerprint = checkpoint.fingerprint()
        checkpoint.read("a").zero_()
        assert not checkpoint.read("a").any()
        checkpoint.release(["a"])
        assert torch.equal(checkpoint.read("a"), TENSORS["a"])
    with open_checkpoint(tmp_path, allow_pickle=True) as checkpoint:
        checkpoint.read("a").zero_()
        assert checkpoint.fingerprint() == fingerprint
    assert (tmp_path / "pytorch_model.bin").read_bytes() == before


def test_pickled_shards_follow_their_index(tmp_path):
    files = {"a": "pytorch_model-00001-of-00002.bin", "b.t": "pytorch_model-00002-of-00002.bin"}
    for name, file in files.items():
        torch.save({name: TENSORS[name]}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    with open_checkpoint(tmp_path, allow_pickle=True) as checkpoint:
        assert all(torch.equal(checkpoint.read(name), TENSORS[name]) for name in TENSORS)
    (tmp_path / files["a"]).unlink()
    with pytest.raises(SuperweightsError, match=r"lacks pytorch_model-00001-of-00002\.bin"):
        open_checkpoint(tmp_path, allow_pickle=True)


class Program:
    """What a hostile pickle would do when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("written", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_program_in_a_pickle_is_refused_and_does_not_run(tmp_path, written):
    trace = tmp_path / "ran"
    written({"a": Program(trace)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SuperweightsError, match="cannot be loaded as plain weights"):
        open_checkpoint(tmp_path, allow_pickle=True)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [{}, [1, 2], {"a": 3}, {"a": torch.ones(2).to_sparse()}, {1: torch.ones(2)}]
)
def test_a_pickle_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(SuperweightsError):
        open_checkpoint(tmp_path, allow_pickle=True)


def test_safetensors_win_over_pickles_beside_them(tmp_path):
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.format == "safetensors"


@pytest.fixture
def coded(tmp_path) -> Path:
    """A checkpoint that brings its own configuration class, which leaves a trace when it runs."""
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    auto_map = {"AutoConfig": "configuration_own.OwnConfig"}
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own_kind", "auto_map": auto_map, "size": 7})
    )
    (tmp_path / "configuration_own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PretrainedConfig\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class OwnConfig(PretrainedConfig):\n"
        "    model_type = 'own_kind'\n"
    )
    return tmp_path


def test_model_code_runs_only_with_trust(coded, tmp_path, monkeypatch):
    with open_checkpoint(coded) as checkpoint:
        assert torch.equal(checkpoint.read("a"), torch.ones(2)), "tensors need no code"
        with pytest.raises(SuperweightsError, match="brings its own model code") as caught:
            checkpoint.model_config()
        assert "trust_remote_code" in caught.value.hint
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    with open_checkpoint(coded, trust_remote_code=True) as checkpoint:
        assert checkpoint.model_config().size == 7
        assert checkpoint.trust_remote_code
    assert (tmp_path / "ran").exists()


def test_a_model_that_transformers_knows_needs_no_trust(coded, tmp_path):
    config = json.loads((coded / "config.json").read_text()) | {"model_type": "llama"}
    (coded / "config.json").write_text(json.dumps(config))
    with open_checkpoint(coded) as checkpoint:
        assert type(checkpoint.model_config()).__name__ == "LlamaConfig"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "config",
    [{"model_type": "no_such_model"}, {"hidden_size": 3}, {"model_type": "llama", "hidden_size": "wide"}],
)
def test_a_configuration_that_transformers_cannot_use_is_explained(tmp_path, config):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with (
        open_checkpoint(tmp_path) as checkpoint,
        pytest.raises(SuperweightsError, match="cannot read the config"),
    ):
        checkpoint.model_config()


def test_a_broken_tokenizer_is_explained_and_a_missing_one_is_none(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tokenizer() is None
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nothing"}}')
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(SuperweightsError, match="tokenizer"):
        checkpoint.tokenizer()


def test_a_tokenizer_saved_by_transformers_is_read_back(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tokenizer()("hello big world").input_ids == [1, 0, 2]
