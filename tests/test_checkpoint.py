"""Opening folders and files: what is read, at what cost, what is refused and in which words."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.errors import SuperweightsError

pytestmark = pytest.mark.tiny
linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A tiny Llama saved by transformers: one folder with one file, one with several, one with a pickle."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("made")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(root / "one")
    model.save_pretrained(root / "many", max_shard_size="20KB")
    (root / "pickled").mkdir()
    shutil.copy(root / "one" / "config.json", root / "pickled")
    torch.save(model.state_dict(), root / "pickled" / "pytorch_model.bin")
    return root


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of the sharded folder that a test may damage."""
    return Path(shutil.copytree(made / "many", tmp_path / "many"))


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor as the safetensors library reads it."""
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(path: Path, **options: Any) -> SuperweightsError:
    with pytest.raises(SuperweightsError) as caught:
        open_checkpoint(path, **options)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("which", ["one", "many"])
def test_every_tensor_equals_what_safetensors_loads(made, which):
    with open_checkpoint(made / which) as checkpoint:
        expected = stored(made / which)
        assert set(checkpoint.tensors) == set(expected)
        for name, tensor in expected.items():
            info = checkpoint.tensors[name]
            assert (info.shape, info.dtype, info.nbytes) == (tuple(tensor.shape), "BF16", tensor.nbytes)
            assert info.torch_dtype == tensor.dtype
            assert torch.equal(checkpoint.read(name), tensor)
            assert torch.equal(checkpoint.read_rows(name, 1, 3), tensor[1:3])
            last = tuple(n - 1 for n in tensor.shape)
            assert checkpoint.element(name, last) == tensor[last].item()


def test_the_configuration_object_is_transformers_own(made):
    with open_checkpoint(made / "many") as checkpoint:
        config = checkpoint.model_config()
        assert isinstance(config, LlamaConfig)
        assert config.hidden_size == checkpoint.config["hidden_size"] == 32
        assert checkpoint.tokenizer() is None


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.uint16,
        torch.int32,
        torch.uint32,
        torch.int64,
        torch.uint64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2fnuz,
        torch.float8_e8m0fnu,
    ],
    ids=str,
)
def test_every_number_format_is_read_bit_for_bit(tmp_path, dtype):
    torch.manual_seed(0)
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (5, 7 * dtype.itemsize), dtype=torch.uint8)
    tensors = {
        "matrix": raw.view(dtype),
        "empty": torch.empty(0, 3, dtype=dtype),
        "scalar": raw.view(dtype)[0, 0],
    }
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        for name, tensor in tensors.items():
            read = checkpoint.read(name)
            assert (read.dtype, read.shape) == (dtype, tensor.shape)
            assert torch.equal(read.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def regions(path: Path, key: str) -> list[tuple[int, int, int]]:
    """Where the system has mapped `path` in this process: start, end, and the kilobytes under `key`."""
    found, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
        elif inside and line.startswith(f"{key}:"):
            found.append((start, end, int(line.split()[1])))
    return found


@linux
def test_tensors_lie_over_the_file_without_a_copy(made):
    with open_checkpoint(made / "one") as checkpoint:
        places = regions(made / "one" / "model.safetensors", "Rss")
        assert places
        for name in checkpoint.tensors:
            for tensor in (checkpoint.read(name), checkpoint.read_rows(name, 1, 2)):
                assert any(start <= tensor.data_ptr() < end for start, end, _ in places)


@linux
def test_released_memory_leaves_and_comes_back(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(2**21), "b": torch.ones(2**10)}, path)
    with open_checkpoint(path) as checkpoint:
        tensor = checkpoint.read("a")
        assert tensor.sum() == 2**21
        held = sum(kilobytes for *_, kilobytes in regions(path, "Rss"))
        checkpoint.release(["a"])
        left = sum(kilobytes for *_, kilobytes in regions(path, "Rss"))
        assert held >= 8192
        assert left <= 64
        assert tensor.sum() == 2**21, "a tensor still held reads the file again"


def test_edits_stay_in_memory_and_end_with_release_of_their_own_tensor_alone(made):
    before = bytes_of(made / "one")
    expected = stored(made / "one")
    names = sorted(expected)
    with open_checkpoint(made / "one") as checkpoint:
        for name in names:
            checkpoint.read(name).fill_(3.0)
        assert all((checkpoint.read(name) == 3.0).all() for name in names)
        assert bytes_of(made / "one") == before, "the file is as it was"
        for released in names:
            checkpoint.release([released])
            assert torch.equal(checkpoint.read(released), expected[released])
            kept = names[names.index(released) + 1 :]
            assert all((checkpoint.read(name) == 3.0).all() for name in kept), "neighbours keep their edits"
    assert bytes_of(made / "one") == before


def test_prefetch_changes_nothing_that_is_read(made):
    with open_checkpoint(made / "many") as checkpoint:
        checkpoint.prefetch(checkpoint.tensors)
        expected = stored(made / "many")
        assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in expected.items())
        assert checkpoint.traffic.requests == checkpoint.traffic.bytes == 0


def test_two_threads_read_and_release_at_once(made):
    expected = stored(made / "many")

    def work(checkpoint: Checkpoint, name: str) -> bool:
        equal = torch.equal(checkpoint.read(name), expected[name])
        checkpoint.release([name])
        return equal

    with open_checkpoint(made / "many") as checkpoint, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda name: work(checkpoint, name), sorted(expected) * 20))


def test_a_wrong_name_is_answered_with_the_closest(made):
    with open_checkpoint(made / "one") as checkpoint:
        for call in (checkpoint.read, lambda n: checkpoint.prefetch([n]), lambda n: checkpoint.release([n])):
            with pytest.raises(SuperweightsError, match="no tensor") as caught:
                call("model.layers.0.mlp.down_proj.wieght")
            assert DOWN in caught.value.hint


def test_a_wrong_index_is_refused(made):
    with open_checkpoint(made / "one") as checkpoint:
        with pytest.raises(SuperweightsError, match="outside the tensor"):
            checkpoint.element(DOWN, (32, 0))
        with pytest.raises(SuperweightsError, match="outside the tensor"):
            checkpoint.element(DOWN, (1,))
        with pytest.raises(SuperweightsError, match="no rows 31 to 33"):
            checkpoint.read_rows(DOWN, 31, 33)


def test_reading_after_closing_is_refused_and_old_tensors_live_on(made):
    with open_checkpoint(made / "one") as checkpoint:
        tensor = checkpoint.read(DOWN)
        value = tensor.clone()
    with pytest.raises(SuperweightsError, match="is closed"):
        checkpoint.read(DOWN)
    assert torch.equal(tensor, value)


def test_the_fingerprint_tells_checkpoints_apart_and_nothing_else(made, tmp_path):
    with open_checkpoint(made / "one") as one, open_checkpoint(made / "many") as many:
        assert one.fingerprint() == many.fingerprint(), "however the tensors are spread over files"
        assert one.origin() == {
            "name": str(made / "one"),
            "revision": None,
            "format": "safetensors",
            "fingerprint": one.fingerprint(),
        }
    with open_checkpoint(made / "one") as edited:
        for name in edited.tensors:
            edited.read(name).zero_()
        assert edited.fingerprint() == one.fingerprint(), "edits in memory do not count"
    tensors = stored(made / "one")
    for change in (
        {DOWN: tensors[DOWN] + 1},
        {DOWN: tensors[DOWN].T.contiguous()},
        {"new": tensors[DOWN].clone()},
    ):
        save_file(tensors | change, tmp_path / "other.safetensors")
        with open_checkpoint(tmp_path / "other.safetensors") as other:
            assert other.fingerprint() != one.fingerprint()


def test_a_bare_file_reads_but_has_no_configuration(made):
    with open_checkpoint(made / "one" / "model.safetensors") as checkpoint:
        assert torch.equal(checkpoint.read(DOWN), stored(made / "one")[DOWN])
        assert checkpoint.config == {}
        assert checkpoint.tokenizer() is None
        with pytest.raises(SuperweightsError, match="bare weights file"):
            checkpoint.model_config()


def test_weights_without_config_read_but_build_no_model(folder):
    (folder / "config.json").unlink()
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.read(DOWN).shape == (32, 48)
        with pytest.raises(SuperweightsError, match=r"no config\.json"):
            checkpoint.model_config()


def test_numbered_shards_open_without_an_index_only_when_all_are_there(folder):
    (folder / "model.safetensors.index.json").unlink()
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.tensors) == set(stored(folder))
    shards = sorted(folder.glob("*.safetensors"))
    shards[0].unlink()
    assert f"holds {len(shards) - 1} of {len(shards)} shards" in refusal(folder).message


def test_files_that_do_not_say_whether_they_belong_together_are_refused(folder):
    (folder / "model.safetensors.index.json").unlink()
    for i, shard in enumerate(sorted(folder.glob("*.safetensors"))):
        shard.rename(folder / f"part{i}.safetensors")
    assert "do not say which belong together" in refusal(folder).message


def test_a_tensor_in_two_files_is_refused(tmp_path):
    for i in (1, 2):
        save_file({"a": torch.ones(2)}, tmp_path / f"model-0000{i}-of-00002.safetensors")
    assert "'a' is in both" in refusal(tmp_path).message


def test_folders_without_weights_say_what_they_are(tmp_path, made):
    assert "is empty" in refusal(tmp_path).message
    shutil.copy(made / "one" / "config.json", tmp_path)
    assert "has a config.json but no weights" in refusal(tmp_path).message
    save_file({"a": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    assert "an adapter, not a model" in refusal(tmp_path).message
    assert "There is no file or folder" in refusal(tmp_path / "nowhere").message
    assert "neither" in refusal(tmp_path / "config.json").message
    assert "no revisions" in refusal(made / "one", revision="main").message


def change_index(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= change
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "a\\b", "..", "", "C:x", 7, None])
def test_an_index_may_only_name_files_beside_it(folder, file):
    change_index(folder, {"stolen": file})
    assert "not a file name in its own folder" in refusal(folder).message


def test_an_index_that_promises_too_much_is_refused(folder):
    change_index(folder, {"absent": "model-00001-of-00009.safetensors"})
    assert "lacks model-00001-of-00009.safetensors" in refusal(folder).message
    shard = next(folder.glob("*.safetensors"))
    change_index(folder, {"absent": shard.name})
    (folder / "model-00001-of-00009.safetensors").write_bytes(shard.read_bytes())
    assert "names tensors that its shards lack: absent" in refusal(folder).message


INDEX = "model.safetensors.index.json"
BROKEN = ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 100_000, "\xff", '{"a": ' + "9" * 5000 + "}"]
CASES = [(file, text) for file in (INDEX, "config.json") for text in BROKEN] + [(INDEX, '{"weight_map": []}')]


@pytest.mark.parametrize(("file", "text"), CASES)
def test_damaged_json_is_refused(folder, file, text):
    (folder / file).write_bytes(text.encode("latin-1"))
    assert file in refusal(folder).message
