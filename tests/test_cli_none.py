"""A record of `find` that found nothing: every command that takes --from goes on, or says so in one true sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import saved_llama

from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.record import Record

pytestmark = pytest.mark.tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("none") / "llama", {})


@pytest.fixture(scope="module")
def record(llama) -> Path:
    """The record of a search that found nothing."""
    path = llama.parent / "found.json"
    with open_checkpoint(llama) as checkpoint:
        found = {"verdict": "none", "candidates": []}
        path.write_text(Record.of("find", checkpoint, seed=0, findings=found).to_json())
    return path


def test_quantize_goes_on_and_says_that_nothing_is_protected(llama, record, tmp_path, capsys):
    assert run(["quantize", str(llama), "--to", str(tmp_path / "q"), "--from", str(record)]) == 0
    assert "Nothing is protected" in capsys.readouterr().out
    assert (tmp_path / "q" / "superweights.safetensors").is_file()


def test_prune_goes_on_and_holds_nothing_in_place(llama, record, tmp_path, capsys):
    options = ["--drop", "1", "--windows", "2", "--window", "16", "--draws", "0", "--json"]
    assert run(["prune", str(llama), "--from", str(record), *options, "--to", str(tmp_path / "p")]) == 0
    carriers = json.loads(capsys.readouterr().out)["findings"]["carriers"]
    assert not [each for each in carriers if "super weight" in each["reason"]]


def test_audit_judges_the_predictions(llama, record, tmp_path, capsys):
    assert (
        run(["quantize", str(llama), "--to", str(tmp_path / "q"), "--format", "dense", "--keep", "none"]) == 0
    )
    capsys.readouterr()
    audit = ["audit", str(tmp_path / "q"), "--against", str(llama), "--from", str(record)]
    assert run([*audit, "--windows", "2", "--window", "16"]) == 0
    shown = capsys.readouterr().out
    assert "predictions alone are judged" in shown
    assert "perplexity" in shown
    assert run([*audit, "--weights-only"]) == 1
    assert "No super weight" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["peel", "{}", "--to", "{to}"], ["recipe", "{}"]])
def test_peel_and_recipe_say_that_the_record_found_none(command, llama, record, tmp_path, capsys):
    filled = [part.format(llama, to=tmp_path / "to") for part in command]
    assert run([*filled, "--from", str(record)]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: The record found no super weight in {llama}."
    assert "find MODEL --out" not in hint
    assert not (tmp_path / "to").exists()
