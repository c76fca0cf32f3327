"""`superweights show RECORD` prints what the command that wrote the record printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import saved_llama

from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.record import Record, Score

pytestmark = pytest.mark.tiny

TENSOR = "model.layers.0.mlp.down_proj.weight"
CUT = ["--windows", "2", "--window", "16"]
COMMANDS = {
    "find": ["find", "{}", "--rounds", "0"],
    "scan": ["scan", "{}", "--top", "3", "--spectrum"],
    "quantize": ["quantize", "{}", "--to", "{to}/q", "--keep", f"{TENSOR}[5, 7]"],
    "prune": ["prune", "{}", "--drop", "1", "--draws", "1", *CUT],
    "audit": ["audit", "{}", "--against", "{}", "--weights", f"{TENSOR}[5, 7]", *CUT],
    "drift": ["adapt", "drift", "{}", "--against", "{}"],
    "profile": ["profile", "{}", "--no-rounding", *CUT],
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("llama"), {TENSOR: {(5, 7): 4.0}})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_record_is_shown_as_its_command_showed_it(command, llama, tmp_path, capsys):
    out = tmp_path / "record.json"
    filled = [part.format(llama, to=tmp_path) if "{" in part else part for part in COMMANDS[command]]
    assert run([*filled, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert run(["show", str(out)]) == 0
    assert capsys.readouterr().out == printed
    assert run(["show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())


@pytest.mark.parametrize("command", ["anatomy sinks", "what a later version asks"])
def test_of_a_record_without_a_table_here_the_scores_are_shown(command, llama, tmp_path, capsys):
    path = tmp_path / "record.json"
    with open_checkpoint(llama) as checkpoint:
        scores = [Score("share on the first token", 0.25, "of attention", 4, 0.01)]
        path.write_text(
            Record.of(
                command, checkpoint, scores=scores, findings={"conditions": {}, "answers": {}}
            ).to_json()
        )
    assert run(["show", str(path)]) == 0
    assert "0.250 ±0.010" in capsys.readouterr().out


def test_what_is_no_record_is_refused(tmp_path, capsys):
    (tmp_path / "no.json").write_text("{}")
    for path in ("no.json", "absent.json"):
        assert run(["show", str(tmp_path / path)]) == 1
        assert "hint:" in capsys.readouterr().err
