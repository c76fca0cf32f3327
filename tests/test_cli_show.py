"""`superweights show RECORD` prints what the command that wrote the record printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small import saved_llama
from test_cli_score import SHORT, folder  # noqa: F401 - a fixture

import superweights
from superweights import tables
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.interpretability import QUESTIONS
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
# The same for a model that speaks.
SPOKEN = {
    "score": ["score", "{}", "--edit", f"{TENSOR}[5, 7]=0", "--prompt", "It was", *CUT],
    "ablate": ["ablate", "{}", f"{TENSOR}[5, 7]", *CUT],
    "scale": ["scale", "{}", f"{TENSOR}[5, 7]", "--factor", "2", *CUT],
    "plan": ["plan", "{}", "--bits", "12", *CUT],
    "activations": ["activations", "{}", *CUT],
    "figure3": ["reproduce", "figure3", "{}", "--weight", f"{TENSOR}[5, 7]", *CUT],
    "figure4": ["reproduce", "figure4", "{}", "--weight", f"{TENSOR}[5, 7]", *CUT],
    "figure6": ["reproduce", "figure6", "{}", "--weight", f"{TENSOR}[5, 7]", *CUT],
    "facts": ["facts", "{}", *CUT],
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("llama"), {TENSOR: {(5, 7): 4.0}})


@pytest.mark.parametrize("command", [*COMMANDS, *SPOKEN])
def test_a_record_is_shown_as_its_command_showed_it(command, llama, folder, tmp_path, capsys):  # noqa: F811
    out, model = tmp_path / "record.json", llama if command in COMMANDS else folder
    words = {**COMMANDS, **SPOKEN}[command]
    filled = [part.format(model, to=tmp_path) if "{" in part else part for part in words]
    assert run([*filled, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert run(["show", str(out)]) == 0
    assert capsys.readouterr().out == printed
    assert run(["show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())


ASKED = [[question.word] for question in QUESTIONS] + [["all"], ["kurtosis"]]
CAUSAL = [[question.word, "--causal"] for question in QUESTIONS if question.causal]


@pytest.mark.parametrize("asked", ASKED + CAUSAL, ids=" ".join)
def test_an_answer_of_anatomy_is_shown_as_it_was_given(asked, folder, tmp_path, capsys):  # noqa: F811
    """Also those of numbers that JSON has no word for, and of interventions."""
    out, weights = tmp_path / "record.json", ["--weights", f"{TENSOR}[5, 7]"] if "--causal" in asked else []
    if run(["anatomy", *asked, str(folder), *SHORT, *weights, "--out", str(out)]):
        pytest.skip(capsys.readouterr().err)
    printed = capsys.readouterr().out
    assert run(["show", str(out)]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("command", COMMANDS)
def test_printing_a_record_prints_what_its_command_prints(command, llama, tmp_path, capsys):
    out = tmp_path / "record.json"
    filled = [part.format(llama, to=tmp_path) if "{" in part else part for part in COMMANDS[command]]
    assert run([*filled, "--out", str(out)]) == 0
    printed = capsys.readouterr().out.rstrip("\n")
    record = superweights.show(out)
    print(record)
    assert capsys.readouterr().out.rstrip("\n") == printed
    if command == "find":
        print(record.findings)
        assert capsys.readouterr().out.rstrip("\n") == printed


def test_lines_of_json_are_no_record(tmp_path, capsys):
    (tmp_path / "cells.jsonl").write_text('{"cell": 1}\n{"cell": 2}\n')
    assert run(["show", str(tmp_path / "cells.jsonl")]) == 1
    assert "a record is one object" in " ".join(capsys.readouterr().err.split())


def test_tables_need_neither_torch_nor_a_terminal():
    """Each file of the room, in a process where torch cannot be imported."""
    files = sorted(path.stem for path in Path(tables.__file__).parent.glob("*.py"))
    asked = "\n".join(f"import superweights.tables.{file}" for file in files if file != "__init__")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['torch'] = None\n{asked}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


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
