"""Reports: every form of the same records, nothing of a model or file acted on, and the page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.findings import (
    Activations,
    Anatomy,
    Continuation,
    EditMade,
    EffectRow,
    Effects,
    RoundedRow,
    Side,
    TokenChange,
    TokenShift,
    typed,
)
from superweights.record import Record, Score, versions
from superweights.reports import FORMATS, read_records, render
from superweights.reports.discovery import verdicts

pytestmark = pytest.mark.unit

HOSTILE = (
    "</script><img src=x onerror='window.hacked=1'><script>window.hacked=1</script>`**|[x](javascript:1)"
)


def score(name: str, value: float, error: float | None = 0.1) -> dict:
    return {"name": name, "value": value, "unit": "nats/token", "n": 8, "standard_error": error}


def candidate(layer: int, channel: int, loss: float, verdict: str, **more) -> dict:
    return {
        "address": f"model.layers.{layer}.mlp.down_proj.weight[{channel}, 7]",
        "value": 5.875,
        "spike_in": 100.0 * (layer + 1),
        "spike_out": -1000.0,
        "dominance": 0.9,
        "effect": score("loss rise", loss),
        "controls": [score("64 random", 0.001)],
        "verdict": verdict,
        "role": "writes",
        "out_channel": channel,
        "in_neuron": 7,
        "layer": layer,
        **more,
    }


def found(name: str = "tiny", peak: float = 900.0) -> Record:
    layers = [
        {
            "layer": n,
            "peak": peak if n > 1 else 3.0,
            "ratio": 30.0,
            "channel": 5,
            "phase": "step_up" if n == 2 else "calm",
        }
        for n in range(6)
    ]
    findings = {
        "verdict": "critical",
        "candidates": [candidate(2, 5, 2.25, "critical"), candidate(4, 300, 0.01, "benign")],
        "layers": layers,
        "joint": score("loss rise, all removed", 3.0),
        "removed": ["a", "b"],
        "conditions": {"dtype": "float32", "confirmed_on": HOSTILE},
        "notes": [],
    }
    return Record("find", {"name": name, "fingerprint": "f00"}, versions(), seed=0, findings=findings)


def scored(name: str = "tiny") -> Record:
    made = Score("perplexity", 1.0, "per token", 8, 3.0)
    rows = tuple(
        EffectRow(
            name=f"{factor} times",
            edits=(EditMade("w[1, 2]", factor),),
            changes=(),
            perplexity=replace(made, value=100.0 / (factor + 1)),
            bits_per_byte=None,
            losses=(),
            loss=Score("loss change", 1.0 - factor, "nats/token", 8, 0.1),
            kl=Score("KL", 0.5, "nats/token", 8, 0.1),
            agreement=Score("agreement", 0.5, "of positions", 8, 0.1),
        )
        for factor in (0.0, 0.5, 2.0)
    )
    still = Score("entropy", 1.0, "nats", 2)
    token = TokenChange(3, HOSTILE, 0.1, 0.2, still, 2.0, None)
    findings = Effects(
        conditions={"windows": 2, "window": 64, "text": "prose"},
        base=Side(replace(made, value=50.0)),
        rows=rows,
        continuations=(Continuation("Say", " hello", HOSTILE, 0.0, None, "edited"),),
        shift=(TokenShift(2, (), (token,), (), (), (), *[still] * 6, name="edited"),),
    )
    return Record("score", {"name": name}, versions(), findings=findings)


RECORDS = [found(), scored()]


class Page(HTMLParser):
    """Tags, texts, and addresses of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        assert not [name for name, _ in attrs if name.startswith("on")], "an attribute that runs code"

    def handle_data(self, data):
        self.words += data


def test_the_page_has_its_sections_asks_for_nothing_and_is_small():
    page = render(RECORDS)
    read = Page(page)
    for words in (
        "Verdict",
        "falls without a single weight",
        "9.5 times as high",
        "Where they stand",
        "With and without",
    ):
        assert words in read.words, words
    assert all(link.startswith(("#", "data:text/csv")) for link in read.links)
    assert read.tags.count("script") == 2, "the data, and our own"
    assert "http-equiv" in page
    assert len(page) < 5_000_000


def test_the_data_of_each_chart_is_there_as_a_table_and_as_csv():
    page = render(RECORDS)
    held = [unquote(link).partition("base64,")[2] for link in Page(page).links if link.startswith("data:")]
    tables = [list(csv.reader(io.StringIO(b64decode(each).decode()))) for each in held]
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page).group(1))
    assert [chart["title"] for chart in charts] == [
        "Spikes of the candidates",
        "Residual stream, layer by layer",
        "Scaling",
    ]
    journey = tables[1]
    assert journey[0] == ["layer", "largest value", "median"]
    assert journey[3] == ["2.0", "900.0", "30.0"] or journey[3] == ["2", "900.0", "30.0"]
    scaling = dict(zip(tables[2][0], zip(*tables[2][1:], strict=True), strict=True))
    assert [float(x) for x in scaling["factor"]] == [0.0, 0.5, 1.0, 2.0], "the model as it is stands at 1"


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_that_a_model_or_file_says_is_acted_on(form):
    records = [found(name=HOSTILE), scored(name=HOSTILE)]
    said = render(records, form)
    if form == "html":
        assert "img" not in Page(said).tags
        assert Page(said).tags.count("script") == 2
        assert HOSTILE in Page(said).words
    elif form == "md":
        assert "<img" not in said
        assert "<script" not in said
        assert "[x](" not in said
    else:
        assert json.loads(said)["title"] == f"Super weights of {HOSTILE}"


def test_a_record_that_was_written_and_read_back_gives_the_same_page():
    for record in (scored(), rounded(), asked()):
        assert render([typed(Record.from_json(record.to_json()))], "json") == render([record], "json")


def test_findings_of_another_shape_are_named_not_guessed():
    with pytest.raises(SuperweightsError, match="record of score: base is missing"):
        render([Record("score", {"name": "tiny"}, versions(), findings={"conditions": {}, "rows": []})])


def test_a_perplexity_beyond_all_numbers_is_an_empty_cell():
    found = scored().findings
    lost = replace(found.rows[0], perplexity=Score("perplexity", math.inf, "per token", 8, None))
    record = replace(scored(), findings=replace(found, rows=(lost, *found.rows[1:])))
    read = typed(Record.from_json(record.to_json()))
    assert math.isnan(read.findings.rows[0].perplexity.value)
    assert "| 0.0 times: w\\[1, 2\\] x 0.0 |  |  | 1 |" in render([read], "md")


def rounded() -> Record:
    base = Score("perplexity", 20.0, "per token", 8, 1.0)
    row = RoundedRow("token", "plain", "{}", 0.25, replace(base, value=23.0), base, base, base, (1.0, None))
    return Record(
        "activations", {"name": "tiny"}, versions(), findings=Activations({"bos": True}, base, (row,))
    )


def asked() -> Record:
    answer = {"layers": [{"layer": 0, "peak": 1.0}, {"layer": 1, "peak": 900.0}]}
    return Record("anatomy massive", {"name": "tiny"}, versions(), findings=Anatomy({}, {"massive": answer}))


def test_rounded_inputs_and_answers_over_layers_have_their_sections():
    said = render([rounded(), asked()], "md")
    assert "| token, plain | 0.25 | 23 | 1 |" in said
    assert "Anatomy: massive" in said


def test_models_stand_side_by_side():
    page = render([found("before"), found("after", peak=90.0)])
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page).group(1))
    journey = next(chart for chart in charts if chart["title"].startswith("Residual"))
    assert [one["name"] for one in journey["series"]][::2] == [
        "before, largest value",
        "after, largest value",
    ]
    assert [max(v for v in one["values"]) for one in journey["series"]][::2] == [900.0, 90.0]


def test_a_record_of_a_command_without_a_section_is_shown_by_its_scores():
    other = Record(
        "peel", {"name": "tiny"}, versions(), scores=(Score("accuracy", 0.5, "of answers", 10, 0.1),)
    )
    assert "| accuracy | 0.5 | 0.1 | of answers | 10 |" in render([other], "md")


BAD = {
    "missing": (None, "Cannot read"),
    "no JSON": ("{", "is not JSON"),
    "no text": (b"\xff\xfe\x00", "no text in UTF-8"),
    "no record": ('{"a": 1}', "holds no record"),
    "another version": ('{"command": "find", "findings": {}, "schema_version": 99}', "version 99"),
    "other fields": (
        '{"command": "find", "findings": {}, "inputs": {}, "versions": {}, "schema_version": 1, "x": 1}',
        "x is no field that is known",
    ),
    "nothing": ("[]", "no records"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_record_is_refused_and_nothing_is_written(case, tmp_path, capsys):
    held, words = BAD[case]
    path = tmp_path / "r.json"
    if held is not None:
        path.write_bytes(held if isinstance(held, bytes) else held.encode())
    assert run(["report", str(path), "--output", str(tmp_path / "out.html")]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "hint:" in said
    assert not (tmp_path / "out.html").exists()


def test_the_command_writes_every_form_by_the_name_of_the_file(tmp_path, capsys):
    path = tmp_path / "r.json"
    path.write_text("\n".join(record.to_json() for record in RECORDS))
    for form in FORMATS:
        assert run(["report", str(path), "--output", str(tmp_path / f"out.{form}")]) == 0
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "out.md").read_text().startswith("# Super weights of tiny")
    assert json.loads((tmp_path / "out.json").read_text())["sections"][0]["title"] == "Verdict"
    capsys.readouterr()
    assert run(["report", str(path), "--format", "md"]) == 0
    assert "falls without a single weight" in capsys.readouterr().out
    assert run(["report", str(path), "--format", "pdf"]) == 1
    assert "no format 'pdf'" in capsys.readouterr().err
    with pytest.raises(SuperweightsError, match="no records"):
        render([])
    assert [r.to_json() for r in read_records([path])] == [r.to_json() for r in RECORDS]


def test_reports_need_neither_torch_nor_transformers(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(RECORDS[0].to_json())
    code = (
        "import sys; from superweights.cli import run\n"
        f"assert run(['report', {str(path)!r}, '--output', {str(tmp_path / 'o.html')!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- in a browser ---------------------------------------------------------------------------------------


@pytest.fixture
def opened(browser, tmp_path) -> Path:
    page = tmp_path / "page.html"
    page.write_text(render([found(name=HOSTILE), scored(name=HOSTILE)]), encoding="utf-8")
    browser.get(page.as_uri())
    return page


_INK = """
return Array.from(document.querySelectorAll('.chart canvas')).map((c) => {
  const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let ink = 0;
  for (let i = 3; i < data.length; i += 4) ink += data[i] > 40;
  return ink;
});
"""


@pytest.mark.tiny
def test_charts_are_drawn_and_nothing_is_asked_for_or_complained_about(browser, opened):
    ink = browser.execute_script(_INK)
    assert len(ink) == 3
    assert min(ink) > 1000
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return window.hacked") is None
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.tiny
def test_a_series_is_hidden_by_mouse_and_by_keyboard(browser, opened):
    names = browser.find_elements("css selector", "#chart1 .u-legend th")
    before = browser.execute_script(_INK)[1]
    browser.execute_script("arguments[0].click()", names[1])
    browser.implicitly_wait(1)
    assert names[1].get_attribute("aria-pressed") == "false"
    hidden = browser.execute_script(_INK)[1]
    assert hidden != before
    names[1].send_keys(" ")
    assert names[1].get_attribute("aria-pressed") == "true"
    assert browser.execute_script(_INK)[1] == pytest.approx(before, rel=0.01)


@pytest.mark.tiny
@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_is_as_wide_as_its_window(browser, opened, width):
    browser.set_window_size(max(width, 500), 900)
    if width < 500:  # a desktop window is never that narrow: the page is asked to be
        emulate = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulate)
    browser.get(opened.as_uri())
    try:
        room, used = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert used <= room
        assert min(browser.execute_script(_INK)) > 500
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_perplexity_beyond_all_bounds_is_written_with_its_exponent():
    found = {"verdict": "critical", "joint": score("loss", 67.0, 2.7), "removed": ["a", "b"]}
    told = " ".join(
        block.text for block in verdicts([Record("find", {"name": "tiny"}, versions(), findings=found)])
    )
    assert "67.00 ± 2.7 nats per token: perplexity is 1.3e+29 times as high" in told
