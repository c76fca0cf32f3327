"""What stands below a search: the very commands to go on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from superweights.address import Address
from superweights.cli import run
from superweights.discovery import Findings
from superweights.record import Record, Score, SuperWeight
from superweights.tables.found import _next

pytestmark = pytest.mark.unit

EFFECT = Score("loss rise", 2.0, "nats/token", 8, 0.1)
WEIGHT = SuperWeight(
    Address("model.layers.1.mlp.down_proj.weight", (3, 4)), 5.0, effect=EFFECT, verdict="critical"
)


def said(name: str | None, kept_in: Path | None, weights=(WEIGHT,)) -> list[str]:
    found = Findings("critical", weights, (), EFFECT, None, (), {"name": name})
    return [str(line).replace("[bold]", "").replace("[/]", "") for line in _next(found, kept_in)]


def test_the_command_names_model_folder_and_file():
    (first, second) = said("org/Llama-3.1-8B@main", Path("found here.json"))
    assert (
        "superweights quantize org/Llama-3.1-8B@main --to Llama-3.1-8B-int4 --from 'found here.json'" in first
    )
    assert first.startswith("Next: superweights quantize"), "the record is there"
    assert "--explain" in second


def test_where_no_record_was_kept_it_is_made_first():
    (first, _) = said("models/tiny.gguf", None)
    assert "superweights find models/tiny.gguf --out found.json, then superweights quantize" in first
    assert "--to tiny-int4 --from found.json" in first


def test_nothing_follows_where_nothing_was_found():
    assert said("x", None, ()) == []


def test_a_record_that_is_shown_goes_on_with_the_file_it_is_in(tmp_path, capsys):
    """Nobody is sent to search once more for what lies there."""
    kept = tmp_path / "mine.json"
    asked = {
        "name": "llama",
        "interrupted": False,
        "text": "words",
        "critical_above": 0.69,
        "partial_above": 0.05,
    }
    found = Findings("critical", (WEIGHT,), (), EFFECT, None, (), asked)
    Record("find", {"name": "llama"}, {}, findings=found).write(kept)
    assert run(["show", str(kept)]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "Next: superweights quantize llama" in said
    assert str(kept) in said
