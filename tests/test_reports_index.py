"""The index of known super weights as a page and as a card: all of it, nothing acted on, filtered in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
from base64 import b64decode
from dataclasses import fields, replace
from pathlib import Path

import pytest
from test_reports import HOSTILE, Page

import superweights
from superweights.cli import run
from superweights.index import Effect, KnownWeight, load_known
from superweights.reports import index_card, index_page
from superweights.reports.index import MEANINGS

pytestmark = pytest.mark.unit

LINES = [
    json.loads(line)
    for line in (Path(superweights.__file__).parent / "known.jsonl").read_text(encoding="utf-8").splitlines()
]


def hostile() -> KnownWeight:
    return replace(load_known()[0], model=HOSTILE, notes=(HOSTILE,), conflicts=(HOSTILE,), sources=(HOSTILE,))


def test_the_page_tells_every_line_of_the_file_and_asks_for_nothing():
    page = Page(index_page(load_known()))
    assert page.tags.count("tr") == len(LINES) + 1
    for line in LINES:
        for told in (line["model"], line["tensor"], *line["sources"], *line["notes"], *line["conflicts"]):
            assert told in page.words
    assert page.tags.count("script") == 1
    (link,) = page.links
    rows = list(csv.DictReader(io.StringIO(b64decode(link.partition("base64,")[2]).decode())))
    assert [row["value"] for row in rows] == ["" if e["value"] is None else str(e["value"]) for e in LINES]


def test_nothing_in_an_entry_is_acted_on():
    page = Page(index_page([hostile()]))
    assert "img" not in page.tags
    assert page.tags.count("script") == 1
    assert HOSTILE in page.words
    card = index_card([hostile()])
    assert "<img" not in card
    assert "<script" not in card
    assert "[x](" not in card


def test_the_card_says_what_each_field_is_and_counts_the_verdicts():
    card = index_card(load_known())
    assert set(MEANINGS) == {field.name for field in fields(KnownWeight)} == set(LINES[0])
    critical = sum(line["verdict"] == "critical" for line in LINES)
    assert f"| critical | {critical} |" in card
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    head = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL).group(1))
    assert head["configs"] == [{"config_name": "default", "data_files": "known.jsonl"}]
    assert card.count("| model.layers") + card.count("| transformer") > 0
    table = card.partition("## Entries")[2].partition("## Sources")[0]
    assert table.count("\n| ") == len(LINES) + 1


def test_the_command_writes_both_and_refuses_what_does_not_go_together(tmp_path, capsys):
    page, card = tmp_path / "known.html", tmp_path / "card.md"
    assert run(["known", "--html", str(page), "--card", str(card)]) == 0
    assert page.read_text(encoding="utf-8") == index_page(load_known())
    assert card.read_text(encoding="utf-8") == index_card(load_known())
    capsys.readouterr()
    for more in (["llama-7b"], ["--json"], ["--verify"]):
        assert run(["known", *more, "--html", str(tmp_path / "no.html")]) == 1
        assert "hint:" in capsys.readouterr().err
    assert run(["known", "llama-7b", "--index", "mine.jsonl", "--card", "my card.md"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "superweights known --index mine.jsonl --card 'my card.md'" in said, (
        "what was asked, without what was not"
    )
    assert run(["known", "--html", str(tmp_path / "no.html"), "--card", str(tmp_path / "a" / "b.md")]) == 1
    assert not (tmp_path / "no.html").exists(), "neither is written where one cannot be"


# --- in a browser ---------------------------------------------------------------------------------------


def visible(browser) -> list[tuple[str, str]]:
    rows = browser.execute_script(
        "return Array.from(document.querySelectorAll('.index tbody tr')).filter((r) => r.offsetHeight > 0)"
        ".map((r) => [r.dataset.model, r.dataset.verdict])"
    )
    return [tuple(row) for row in rows]


@pytest.mark.tiny
def test_words_verdicts_and_models_filter_the_rows(browser, tmp_path):
    path = tmp_path / "known.html"
    path.write_text(index_page([*load_known(), hostile()]), encoding="utf-8")
    browser.get(path.as_uri())
    everything = [(line["model"], line["verdict"]) for line in LINES]
    assert visible(browser)[:-1] == everything
    words = browser.find_element("id", "words")
    words.send_keys("OLMo Layers.2.")
    asked = [f"{e['model']} {e['tensor']}" for e in LINES]
    assert [model for model, _ in visible(browser)] == [
        text.split()[0] for text in asked if "olmo" in text.lower() and "layers.2." in text
    ]
    words.clear()
    words.send_keys(" ")  # a cleared field says nothing to the page: a key does
    browser.find_element("css selector", "input[value=unknown]").send_keys(" ")
    assert {verdict for _, verdict in visible(browser)} == {e["verdict"] for e in LINES} - {"unknown"}
    browser.find_element("css selector", "#model option:nth-child(2)").click()
    assert {model for model, _ in visible(browser)} == {LINES[0]["model"]}
    assert browser.find_element("id", "count").text == f"{len(visible(browser))} of {len(LINES) + 1}"
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return window.hacked") is None
    assert [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.tiny
def test_the_page_fits_a_phone(browser, tmp_path):
    path = tmp_path / "known.html"
    path.write_text(index_page(load_known()), encoding="utf-8")
    emulate = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulate)
    try:
        browser.get(path.as_uri())
        room, used = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert used <= room
        browser.save_screenshot(str(tmp_path / "phone.png"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_small_effect_is_written_without_an_exponent_that_could_be_broken():
    entry = load_known()[0]
    effects = (
        Effect("set to 0", 6.18696e-05, "nats/token", 2.1e-05),
        Effect("halved", -1.5e-09, "nats/token"),
    )
    page = index_page([replace(entry, evidence=replace(entry.evidence, effects=effects))])
    assert "set to 0: 0.0000619 ± 0.000021 nats/token" in page
    assert "halved: 0 nats/token" in page
