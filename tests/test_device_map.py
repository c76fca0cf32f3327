"""A device map: blocks that stay in memory beside blocks that wait on the disk, and the same findings."""

from __future__ import annotations

import json

import pytest
import torch
from letters import saved_speaker
from trigger import prompts, trigger_llama

from superweights import Reading, Source, SuperweightsError, find, score
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.stream import streaming
from superweights.stream.placing import staying_blocks

pytestmark = pytest.mark.tiny
MIXED = {"": "cpu", "model.layers.1": "disk", "model.layers.3": "disk"}


@pytest.fixture(scope="module")
def triggered(tmp_path_factory):
    """The triggered Llama of five blocks, in a folder."""
    folder = tmp_path_factory.mktemp("trigger")
    trigger_llama()[0].save_pretrained(folder)
    return str(folder)


def test_blocks_wait_on_the_disk_as_the_map_says(triggered):
    with open_checkpoint(triggered) as checkpoint, streaming(checkpoint, device_map=MIXED) as model:
        on_disk = {
            name.split(".")[2] for name, p in model.named_parameters() if p.is_meta and ".layers." in name
        }
        logits = model(prompts(), use_cache=False).logits
    assert on_disk == {"1", "3"}
    assert torch.equal(logits, trigger_llama()[0](prompts()).logits)


@pytest.mark.parametrize("asked", [MIXED, "auto"], ids=["mixed", "auto"])
def test_the_findings_are_those_without_a_map(triggered, asked):
    alone, mapped = (find(Source(triggered, device_map=each), token_ids=prompts()) for each in (None, asked))
    assert mapped == alone
    assert len(mapped.candidates) > 2


def test_edits_fall_on_both_kinds_of_blocks(tmp_path):
    folder = str(saved_speaker(tmp_path / "model"))
    (tmp_path / "map.json").write_text(json.dumps({"": "cpu", "model.layers.1": "disk"}))
    edits = [f"model.layers.{i}.mlp.down_proj.weight[3, 9{i}]:=40" for i in (0, 1)]
    alone, mapped = (
        score(Source(folder, device_map=each), edits, Reading(window=32, windows=4)).findings
        for each in (None, tmp_path / "map.json")
    )
    assert mapped.rows[0].losses == alone.rows[0].losses
    assert [change["after"] for change in mapped.rows[0].changes] == [40, 40]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"": "cpu", "model.layers.1.mlp": "disk"}, "cuts the block model.layers.1"),
        ({"": "cpu", "model.layers.9": "disk"}, "names model.layers.9"),
        ({"model.layers.0": "cpu"}, "leaves out"),
        ({"": "cpu", "lm_head": "disk"}, "only blocks can be left"),
        ({"": "cpu", "model.layers.1": "cuda:1"}, "computed on cpu"),
        ({"": "cpu", "model.layers.1": "tape"}, "no device 'tape'"),
        ({}, "gives each path"),
        ({"": True}, "gives each path"),
    ],
)
def test_a_map_that_cannot_work_is_refused_by_name(triggered, asked, said):
    model = trigger_llama()[0]
    with pytest.raises(SuperweightsError, match=said):
        staying_blocks(model, asked, torch.device("cpu"))


def test_a_file_that_is_no_map_says_what_one_is(triggered, tmp_path, capsys):
    (tmp_path / "map.json").write_text("{")
    assert run(["find", triggered, "--device-map", str(tmp_path / "map.json")]) == 1
    assert "is no device map" in " ".join(capsys.readouterr().err.split())
