"""`activations` on a small checkpoint on disk, as a person calls it."""

from __future__ import annotations

import pytest
import torch
from test_cli_score import SHORT, folder  # noqa: F401 - a fixture
from transformers import AutoModelForCausalLM, AutoTokenizer

from superweights.cli import run
from superweights.quantization import ActivationScheme, Hold, rounding_activations
from superweights.record import Record
from superweights.scoring import perplexity
from superweights.subject.text import embedded_prose, windows

pytestmark = pytest.mark.tiny


def test_the_record_says_what_the_library_says(folder, capsys, tmp_path):  # noqa: F811
    out = tmp_path / "record.json"
    given = ["activations", str(folder), *SHORT, "--held", "3", "--layers", "2", "--json", "--out", str(out)]
    assert run(given) == 0
    record = Record.from_json(capsys.readouterr().out)
    assert Record.from_json(out.read_text()) == record
    rows = {(row["scale"], row["way"]): row for row in record.findings["rows"]}
    assert len(rows) == 3 * 4

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = windows(AutoTokenizer.from_pretrained(folder), embedded_prose(), 16, 3)
    scheme = ActivationScheme(scale="tensor", hold=Hold("deviations", 3))
    with rounding_activations(model, scheme) as rounding:
        expected = perplexity(model, tokens).value
    found = rows["tensor", "held beyond 3"]
    assert ActivationScheme.from_json(found["scheme"]) == scheme
    assert found["perplexity"]["value"] == pytest.approx(expected, rel=1e-6)
    assert found["held_share"] == pytest.approx(rounding.held_share)
    assert record.scores[0].value == pytest.approx(perplexity(model, tokens).value, rel=1e-6)
    assert len(record.findings["layers"]) == 3 * 2
    assert all(row["error_held"] <= row["error_plain"] for row in record.findings["layers"])


def test_the_table_has_a_row_for_each_way(folder, capsys):  # noqa: F811
    assert (
        run(["activations", str(folder), *SHORT, "--scale", "tensor", "--weights", "int4", "--layers", "1"])
        == 0
    )
    said = capsys.readouterr().out
    for row in ("not at all", "tensor, plain", "held beyond 5", "clipped at 20", "SmoothQuant 0.5"):
        assert row in said
    assert "model.layers." in said
    assert "Errors are standard errors" in said


@pytest.mark.parametrize("bad", [["--scale", "row"], ["--weights", "int3"], ["--windows", "999999"]])
def test_bad_input_is_one_sentence_and_a_hint(folder, capsys, bad):  # noqa: F811
    assert run(["activations", str(folder), *SHORT, *bad]) == 1
    said = capsys.readouterr().err
    assert "error:" in said
    assert "hint:" in said
