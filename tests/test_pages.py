"""Every kind of page that is written, on a phone and a desk, by day and at night: nothing hidden, broken or glaring."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import faults_of
from test_reports import HOSTILE, asked, found, rounded, scored

from superweights.explorer.door import LOGIN
from superweights.index import load_known
from superweights.reports import index_page, render
from superweights.reports.blocks import (
    Beside,
    Chart,
    Film,
    LayerMap,
    Paragraph,
    Reel,
    Section,
    Series,
    Spot,
    Table,
)
from superweights.reports.html import to_html, worded

LONG = "model.language_model.layers.117.block_sparse_moe.experts.117.down_proj.weight[16383, 57343]"
MODEL = "/home/somebody/models/an-organisation-with-a-long-name/A-Model-7B-Instruct-v0.3"


def everything() -> str:
    """A page with every kind of block, each with more in it than has room."""
    columns = (
        "weight",
        "value",
        "spike in",
        "loss without it, nats",
        "others like it",
        "verdict",
        *map(str, range(9)),
    )
    rows = [
        (LONG, -5.3125, 24022.0, "+2.23 ±0.18", 0.0012, "critical", *([123456.789] * 9)) for _ in range(6)
    ]
    steps = tuple(float(n) for n in range(32))
    lines = [
        Series(f"{MODEL}, design {n}, largest value", tuple(10.0**n + s for s in steps), dashed=n == 1)
        for n in range(7)
    ]
    spots = [
        Spot(n, n / 64, n / 64, ("critical", "joint", "partial", "benign")[n % 4], LONG) for n in range(64)
    ]
    image = tuple(bytes([n * 16 % 256] * 16) for n in range(16))
    blocks = (
        Paragraph(f"Without {LONG} perplexity is 1,386.25 times as high: {MODEL}.", strong=True),
        Paragraph(f"Made by superweights find {MODEL} --keep '{LONG}'."),
        *(Paragraph(f"{'n' * n} 1e-08") for n in range(20, 60)),
        Table(f"Weights of {MODEL}", columns, tuple(rows)),
        Table("Two of them", ("weight", "value"), ((LONG, 0.5), ("all", None))),
        Chart("Residual stream", "It steps up.", "layer", "|value|", steps, tuple(lines), log=True),
        Chart(
            "Many",
            "They fall.",
            "factor",
            "loss",
            steps,
            tuple(Series(f"{'n' * n}: model.layers.0.mlp.down_proj.weight[5, 7]", steps) for n in range(30)),
        ),
        LayerMap("Where they stand", "All over.", 64, "output channel", tuple(spots)),
        Beside(MODEL, ("as it is", f"without {LONG}"), (HOSTILE, LONG * 3)),
        Film(
            "The birth of a sink",
            "It comes late.",
            ("step 1 of 100,000", "step 2 of 100,000"),
            tuple(Reel(f"{MODEL}, head {n}", (image, image)) for n in range(3)),
        ),
    )
    return to_html(f"Super weights of {MODEL}", [Section("Verdict", blocks), Section(LONG, blocks[:2])])


PAGES = {
    "report": lambda: render([found(MODEL), found("after", peak=90.0), scored(MODEL), rounded(), asked()]),
    "index": lambda: index_page(load_known()),
    "blocks": everything,
    "token": lambda: LOGIN,
}


@pytest.mark.tiny
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_fault(browser, tmp_path, name):
    path = tmp_path / f"{name}.html"
    path.write_text(PAGES[name](), encoding="utf-8")
    assert faults_of(browser, path.as_uri()) == []


FAULTY = {
    "the page is": "<div style='width: 2000px; height: 9px'></div>",
    "wider than its place": "<div style='width: 40px; overflow: hidden'><nobr>critical without it</nobr></div>",
    "beyond the window": "<p style='position: fixed; left: 2000px'>verdict</p>",
    "white at night": "<div style='background: #fff; width: 300px; height: 300px'></div>",
    "hardly to be seen": "<p style='color: #777; background: #888'>a word</p>",
    "letters of": "<svg viewBox='0 0 2000 100' width='300'><text y='50' font-size='12'>layer</text></svg>",
    "beyond its drawing": "<svg viewBox='0 0 100 100' width=100><text x=70 y=50>layers</text></svg>",
    "broken": "<p style='width: 3em; overflow-wrap: anywhere'>123,456,789.25</p>",
    "cut:": "<input type='text' value='model.layers.11.mlp.down_proj.weight' style='width: 80px'>",
    "says": "<script>console.warn('a word')</script>",
}


@pytest.mark.tiny
@pytest.mark.parametrize("fault", FAULTY)
def test_each_fault_is_seen(browser, tmp_path, fault):
    path = tmp_path / "page.html"
    style = "<style>body { background: #fff; color: #000 } @media (prefers-color-scheme: dark) "
    style += "{ body { background: #000; color: #fff; fill: #fff } }</style>"
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    path.write_text(f"<!doctype html>{head}{style}<body>{FAULTY[fault]}</body>", encoding="utf-8")
    assert any(fault in each for each in faults_of(browser, path.as_uri()))


@pytest.mark.unit
def test_an_address_has_places_to_break_and_says_the_same():
    made = worded(f"<b> {LONG} & 1.5.")
    assert re.sub("<[^>]*>", "", made) == f"&lt;b&gt; {LONG} &amp; 1.5."
    assert '<wbr><span class="place">[16383, 57343]</span>' in made
    assert made.count("<wbr>") == LONG.count(".") + 1


@pytest.mark.unit
def test_no_page_is_written_without_a_test_of_its_kind():
    """All HTML comes from the two writers that are tried here, and the explorer's own page."""
    package = Path(__file__).parent.parent / "superweights"
    writers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"<(html|body)|framed\(", path.read_text(encoding="utf-8"))
    }
    assert writers == {"reports/html.py", "reports/index.py", "explorer/door.py"}
