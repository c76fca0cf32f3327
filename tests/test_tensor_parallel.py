"""One model shared by two processes, by transformers' tensor-parallel plan on gloo: what one process finds."""

from __future__ import annotations

import json
import sys

import pytest
import sharing
import torch
from families import save_tiny, tiny_model
from letters import saved_speaker
from planting import plant
from safetensors.torch import save_file
from small import saved_llama
from trigger import prompts, trigger_llama

from superweights import Reading, Source, SuperweightsError, anatomy, score
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.stream.sharing import _check_heads, _check_plan, shared_device
from superweights.stream.skeleton import Skeleton

pytestmark = pytest.mark.tiny
# Tied embeddings, norms of single heads, biases behind matrices that are cut along their inputs.
TYPES = ("qwen3", "gemma3_text", "starcoder2")
COMMAND = ["-m", "superweights", "find"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The triggered Llama, and one planted model of each type."""
    home = tmp_path_factory.mktemp("shared")
    trigger_llama()[0].save_pretrained(home / "trigger")
    for each in TYPES:
        model = tiny_model(each)
        plant(model, prompts())
        save_tiny(each, home / each, model)
    return {name: home / name for name in ("trigger", *TYPES)}


@pytest.fixture(scope="module")
def shared(folders, tmp_path_factory):
    """What process 0 and process 1 have found in each folder."""
    to = tmp_path_factory.mktemp("found")
    ended = sharing.by_torchrun(sharing.__file__, str(to), *map(str, folders.values()))
    assert ended.returncode == 0, ended.stderr
    return {
        name: [json.loads((to / f"{name}.{rank}.json").read_text()) for rank in (0, 1)] for name in folders
    }


def leaves(held, path=""):
    """Every number and word of what was read from JSON, by its path."""
    if isinstance(held, dict | list):
        for key, value in held.items() if isinstance(held, dict) else enumerate(held):
            yield from leaves(value, f"{path}.{key}")
    else:
        yield path, held


@pytest.mark.parametrize("name", ["trigger", *TYPES])
def test_two_processes_find_what_one_finds(folders, shared, name):
    one = dict(leaves(json.loads(json.dumps(sharing.found_in(folders[name])))))
    two = dict(leaves(shared[name][0]))
    assert two.pop(".conditions.processes") == 2
    assert one.keys() == two.keys()
    numbers = {path for path, held in one.items() if type(held) in (int, float)}
    assert {path: one[path] for path in numbers} == pytest.approx(
        {path: two[path] for path in numbers}, rel=1e-5, abs=1e-5
    )
    assert all(one[path] == two[path] for path in one.keys() - numbers)
    assert one[".candidates.0.verdict"]


def test_both_processes_find_the_same_to_the_last_bit(shared):
    assert all(first == second for first, second in shared.values())


def test_the_first_process_alone_prints_and_writes(tmp_path):
    """`score` with an edit, and `--out`: one record, that of one process to 1e-5."""
    folder = saved_speaker(tmp_path / "model")
    edit = "model.layers.1.mlp.down_proj.weight[3, 90]:=40"
    how = ["--window", "32", "--windows", "4", "--edit", edit, "--json", "--out", str(tmp_path / "two.json")]
    ended = sharing.by_torchrun("-m", "superweights", "score", str(folder), "--tensor-parallel", *how)
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    alone = score(str(folder), [edit], Reading(window=32, windows=4)).findings
    for told in (json.loads(line), json.loads((tmp_path / "two.json").read_text())):
        row = told["findings"]["rows"][0]
        assert row["loss"]["value"] == pytest.approx(alone.rows[0].loss.value, abs=1e-5)
        assert row["changes"][0]["after"] == 40 == alone.rows[0].changes[0]["after"]


def test_unequal_processes_end_in_one_sentence(tmp_path):
    ids = tmp_path / "ids.safetensors"
    save_file({"input_ids": prompts()}, ids)
    models = [saved_llama(tmp_path / name, {}) for name in ("one", "other")]
    rest = ["--tensor-parallel", "--inputs", str(ids), "--out", str(tmp_path / "found.json")]
    ended = sharing.side_by_side(*[[*COMMAND, str(model), *rest] for model in models])
    assert [each.returncode for each in ended] == [1, 1]
    assert "The processes are unequal: the model is" in ended[0].stderr.replace("\n", " ")
    assert ended[0].stderr.count("hint:") == 1
    assert "Traceback" not in ended[0].stderr + ended[1].stderr
    assert not ended[1].stdout + ended[1].stderr.strip()
    assert not (tmp_path / "found.json").exists()


def test_a_worker_that_dies_ends_the_others_in_one_sentence(tmp_path):
    ids = tmp_path / "ids.safetensors"
    save_file({"input_ids": prompts()}, ids)
    model = str(saved_llama(tmp_path / "model", {}))
    dying = f"""
import os
from superweights import Source, find
from superweights.subject.given import read_inputs
def progress(label, done, of):
    if "looking" in label:
        os._exit(9)
find(Source({model!r}, tensor_parallel=True), token_ids=read_inputs({str(ids)!r}), progress=progress)
"""
    rest = ["--tensor-parallel", "--inputs", str(ids), "--out", str(tmp_path / "found.json")]
    first, second = sharing.side_by_side([*COMMAND, model, *rest], ["-c", dying])
    assert (first.returncode, second.returncode) == (1, 9)
    assert "Another process that shares the model has ended." in first.stderr
    assert "hint:" in first.stderr
    assert "Traceback" not in first.stderr
    assert not (tmp_path / "found.json").exists()


def test_heads_that_do_not_divide_are_refused(tmp_path):
    """Three heads among two processes: said by the first alone, and which numbers would do."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 96, "hidden_size": 96, "intermediate_size": 96, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=3, num_key_value_heads=3)).save_pretrained(
        tmp_path / "model"
    )
    ended = sharing.side_by_side(*[[*COMMAND, str(tmp_path / "model"), "--tensor-parallel"]] * 2)
    assert [each.returncode for each in ended] == [1, 1]
    assert "2 processes cannot share the 3 heads" in ended[0].stderr
    assert "hint: start 3 processes" in ended[0].stderr
    assert not ended[1].stderr.strip()


def test_the_numbers_that_would_do_divide_both_kinds_of_heads(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")  # four heads, two key-value heads
    with open_checkpoint(str(saved_llama(tmp_path / "model", {}))) as checkpoint:
        skeleton = Skeleton(checkpoint, torch.float32, torch.device("cpu"))
        with pytest.raises(SuperweightsError, match="3 processes cannot share the 4 heads") as error:
            _check_heads(checkpoint, skeleton.model)
    assert error.value.hint == "start 2 processes."


def test_fewer_accelerators_than_processes_are_refused_before_they_meet(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    room = sys.modules[shared_device.__module__]
    monkeypatch.setattr(room, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SuperweightsError, match="1 accelerator for 2 processes"):
        shared_device("cuda")


def test_a_process_that_was_started_alone_is_told_how(tmp_path, capsys):
    assert run(["find", str(saved_llama(tmp_path / "model", {})), "--tensor-parallel"]) == 1
    said = capsys.readouterr().err
    assert "was started alone" in said
    assert "torchrun" in said


def test_processes_that_share_nothing_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert run(["find", str(saved_llama(tmp_path / "model", {}))]) == 1
    assert "each of them would do all of this" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model_type", "said"), [("gpt2", "no tensor-parallel plan"), ("mixtral", "experts")]
)
def test_a_model_whose_plan_cannot_be_looked_into_is_refused(tmp_path, model_type, said):
    save_tiny(model_type, tmp_path)
    with open_checkpoint(str(tmp_path)) as checkpoint, pytest.raises(SuperweightsError, match=said):
        _check_plan(Skeleton(checkpoint, torch.float32, torch.device("cpu")))


def test_what_cannot_be_asked_of_a_shared_model_says_so(tmp_path):
    folder = saved_speaker(tmp_path / "model")
    with pytest.raises(SuperweightsError, match="find, score, ablate and scale only"):
        anatomy("massive", Source(str(folder), tensor_parallel=True))
