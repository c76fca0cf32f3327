"""The coverage benchmark measures what it says: the truth comes from the files, and a worker may die."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from families import save_tiny, tiny_model, token_ids
from planting import plant

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "coverage.py"
spec = importlib.util.spec_from_file_location("coverage_benchmark", SCRIPT)
coverage = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)

pytestmark = pytest.mark.tiny


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "gpt_oss", "gemma2"])
def test_a_planted_weight_is_found_under_the_name_that_the_file_gives_it(model_type):
    row = coverage.examine(model_type)
    assert row.found, row
    assert row.without == "none"


def test_the_truth_is_the_number_in_which_two_files_differ(tmp_path):
    model = save_tiny("mixtral", tmp_path / "clean", tiny_model("mixtral"))
    planted = plant(model, token_ids())
    save_tiny("mixtral", tmp_path / "planted", model)
    address, shape = coverage.difference(tmp_path / "clean", tmp_path / "planted")
    expert, row, column = planted.index
    assert address == f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight[{row}, {column}]"
    assert shape == [64, 96]


def test_two_equal_checkpoints_hold_no_planted_weight(tmp_path):
    for name in ("clean", "planted"):
        save_tiny("llama", tmp_path / name, tiny_model("llama"))
    with pytest.raises(AssertionError, match="0 numbers differ"):
        coverage.difference(tmp_path / "clean", tmp_path / "planted")


def test_a_type_that_stalls_its_process_gets_a_row_and_the_next_one_runs(monkeypatch):
    answers = iter([None, coverage.Row("gpt2", "w[0, 0]", found=True)])
    monkeypatch.setattr(coverage, "Worker", lambda: FakeWorker(answers))
    stalled, fine = coverage.examine_all(["llama", "gpt2"], timeout=3)
    assert "took over 3 s" in stalled.reason
    assert fine.found


class FakeWorker:
    def __init__(self, answers):
        self.answers = answers
        self.process = self
        self.stdin = self

    def ask(self, model_type, timeout):
        return next(self.answers)

    def close(self):
        pass


def test_the_page_counts_what_its_rows_say():
    rows = [
        coverage.Row("a", "w[0, 0]", found=True, located=True, verdict="benign", without="critical"),
        coverage.Row("b", "w[0, 0]", found=False, located=True, without="none", reason="no candidate"),
        coverage.Row("c", reason="not built: it cannot be"),
    ]
    text = coverage.page(rows, "run")
    assert (
        "Of 3 model types, 2 were planted; the exact address was reported in **1**, the right tensor in 2"
        in text
    )
    assert "1 of 2 were called critical (a)" in text
    assert "| c |  |  |  | not built: it cannot be |" in text
