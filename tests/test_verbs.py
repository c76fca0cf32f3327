"""Each verb gives from Python what its command prints: the same record, to the last digit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_cli_score import ONE, SHORT, TWO, folder  # noqa: F401 - a fixture

from superweights.cli import run
from superweights.findings import FORMS, typed
from superweights.record import Record, to_json_line
from superweights.subject import Reading, Source
from superweights.verbs.ablate import ablate
from superweights.verbs.activations import Ways, activations
from superweights.verbs.anatomy import anatomy
from superweights.verbs.known import known, known_page
from superweights.verbs.prune import Dropping, prune
from superweights.verbs.report import report
from superweights.verbs.reproduce import reproduce
from superweights.verbs.scale import scale
from superweights.verbs.scan import scan
from superweights.verbs.score import Writing, score
from superweights.verbs.sweep import Grids, sweep

pytestmark = pytest.mark.tiny

CUT = Reading(window=16, windows=3)
# One entry a verb: what is typed behind `superweights`, and the same in Python.
VERBS: dict[str, tuple[list[str], Callable[[Any], Record]]] = {
    "score": (
        ["--edit", f"{ONE}=0", "--prompt", "The sea", "--new-tokens", "2", *SHORT],
        lambda model: score(model, [f"{ONE}=0"], CUT, writing=Writing(["The sea"], 2)),
    ),
    "ablate": ([ONE, TWO, *SHORT], lambda model: ablate(model, [ONE, TWO], CUT)),
    "scale": (
        [ONE, "--factor", "0.5", "--factor", "-1", *SHORT],
        lambda model: scale(model, ONE, [0.5, -1], CUT),
    ),
    "activations": (
        ["--scale", "tensor", "--layers", "1", *SHORT],
        lambda model: activations(model, CUT, Ways(["tensor"], layers=1)),
    ),
    "prune": (
        ["--what", "mlp", "--drop", "1", "--draws", "1", *SHORT],
        lambda model: prune(model, Dropping("mlp", 1, draws=1), CUT),
    ),
}  # fmt: skip


def printed(capsys, *words: Any) -> list[Any]:
    assert run([str(word) for word in words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def same(record: Any) -> Any:
    """What a record says, as JSON has it."""
    return json.loads(to_json_line(record) if not isinstance(record, Record) else record.to_json())


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_gives_what_its_command_prints(folder, capsys, verb):  # noqa: F811
    words, call = VERBS[verb]
    (line,) = printed(capsys, verb, folder, *words, "--json")
    record = call(Source(str(folder), device="cpu"))
    assert same(record) == line
    assert list(record.inputs)[:3] == ["name", "revision", "fingerprint"]
    assert record.inputs["fingerprint"]


@pytest.mark.parametrize("question", ["kurtosis", "sinks", "all"])
def test_anatomy_gives_what_its_command_prints(folder, capsys, question):  # noqa: F811
    (line,) = printed(capsys, "anatomy", question, folder, *SHORT, "--json")
    record = anatomy(question, Source(str(folder), device="cpu"), CUT)
    assert same(record) == line
    assert typed(Record.from_json(record.to_json())).findings.conditions["bos"] is False


def test_a_scan_gives_what_its_command_prints_and_reads_back_as_it_was(folder, capsys, tmp_path):  # noqa: F811
    rows = printed(capsys, "scan", folder, "--top", 2, "--spectrum", "--json", "--out", tmp_path / "r.json")
    record = scan(str(folder), top=2, spectrum=True)
    written = Record.from_json((tmp_path / "r.json").read_text())
    assert same(record) == same(written)
    assert typed(written).findings == record.findings
    assert [row["address"] for row in rows[:2]] == [str(each.address) for each in record.findings.suspects]


def test_the_index_gives_what_its_command_prints(capsys):
    rows = printed(capsys, "known", "Llama-2-7B", "--json")
    assert [same(match) for match in known("Llama-2-7B")] == rows
    assert [same(match.known) for match in known()] == printed(capsys, "known", "--json")
    assert known_page("md").startswith("---")


def test_a_sweep_gives_what_its_command_prints_and_goes_on_from_its_store(folder, capsys, tmp_path):  # noqa: F811
    store = tmp_path / "s.sqlite"
    words = ["--weights", ONE, "--weights", TWO, "--grid", "pairs", "--score", "kl", "--store", store, *SHORT]
    rows = printed(capsys, "sweep", folder, *words, "--json")
    source = Source(str(folder), device="cpu")
    swept = sweep(source, [ONE, TWO], CUT, Grids(["pairs"]), scores=["kl"], store=store)
    assert [same(outcome) for outcome in swept.outcomes] == rows
    assert len(rows) == 4
    assert not swept.failed
    assert swept.picture().startswith("<svg")
    assert len(swept.export().splitlines()) == 4


def test_a_reproduction_gives_what_its_command_prints(folder, capsys):  # noqa: F811
    words = ["--weight", ONE, "--scales", "0,2", *SHORT, "--json"]
    first, *rows = printed(capsys, "reproduce", "figure6", folder, *words)
    source = Source(str(folder), device="cpu")
    told = same(reproduce("figure6", source, CUT, weights=[ONE], scales=[0, 2]).findings)
    assert [{"kind": "row", "experiment": "figure6", **row} for row in told.pop("rows")] == rows
    assert {"kind": "conditions", **told} == first


def test_a_model_is_searched_and_reported_on(folder, capsys):  # noqa: F811
    words = ["--format", "json", "--window", 16, "--windows", 3, "--device", "cpu"]
    assert run(["report", str(folder), *map(str, words)]) == 0
    page = report(Source(str(folder), device="cpu"), "json", window=16, windows=3)
    assert page.text == capsys.readouterr().out
    assert page.records[0].command == "find"


def test_a_report_on_records_is_that_of_their_files(folder, tmp_path):  # noqa: F811
    record = ablate(str(folder), [ONE], CUT)
    path = tmp_path / "ablated.json"
    path.write_text(record.to_json())
    assert report(record, "md").text == report([path], "md").text


def test_every_field_of_a_finding_is_explained():
    """A string stands under each, or the class takes it from another (`Score`)."""
    import ast
    import inspect

    seen: set[type] = set()

    def look(form: type) -> None:
        if form in seen or not form.__module__.startswith("superweights.findings"):
            return
        seen.add(form)
        body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(form))).body[0].body  # type: ignore[attr-defined]
        told = [
            node.target.id  # type: ignore[union-attr]
            for node, after in pairwise(body)
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr)
        ]
        assert told == [each.name for each in fields(form)], form

    for form in FORMS.values():
        for thing in vars(sys.modules[form.__module__]).values():
            if isinstance(thing, type) and is_dataclass(thing):
                look(thing)
    assert len(seen) > 20


def test_findings_and_the_verbs_about_records_need_no_torch():
    code = (
        "import sys; import superweights.findings, superweights.verbs.report, superweights.verbs.known\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
