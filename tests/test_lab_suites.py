"""A suite from the command line to the page, what happens when it is stopped, and what its folders refuse."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import struct
import zlib
from dataclasses import replace

import pytest

from superweights.cli import run as superweights
from superweights.errors import SuperweightsError
from superweights.jobs import Store
from superweights.lab.cells import TRAINING, Training, work_through
from superweights.lab.comparison import compare_folders
from superweights.lab.page import suite_page
from superweights.lab.running import read_suite, run_suite
from superweights.lab.suites import PREVENTION, SUITES, suite_named
from superweights.reports.film import png


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The smoke version of the main job, from the command line."""
    folder = tmp_path_factory.mktemp("lab") / "quick"
    assert superweights(["lab", "run", "prevention", "--quick", "--workers", "1", "--to", str(folder)]) == 0
    return folder


@pytest.mark.tiny
def test_the_smoke_version_trains_its_arms_and_calls_everything_inconclusive(quick, capsys):
    done = read_suite(quick)
    assert set(done.judged.runs) == {"control", "softmax1", "softpick", "rectified"}
    assert {(v.word, v.why) for v in done.judged.verdicts} == {("inconclusive", "1 of 3 seeds")}
    assert superweights(["lab", "compare", str(quick), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["design"] for line in lines] == ["control", "softmax1", "softpick", "rectified"]
    assert lines[0]["numbers"]["null"] is None
    assert lines[1]["numbers"]["null"]["mean"] > 0, "softmax-1 gives weight to its null slot"
    assert lines[2]["numbers"]["zeros"]["mean"] > 0, "softpick has exact zeros"


@pytest.mark.tiny
def test_every_arm_reads_the_same_tokens_from_the_same_start(quick):
    done = read_suite(quick)
    ends = [held[0] for held in done.judged.runs.values()]
    assert len({result.tokens for result in ends}) == 1
    assert len({result.start.parameters for result in ends}) == 1
    # Norm before attention and MLP: before training, three attentions of one start differ in nothing but attention.
    assert len({round(result.start.loss, 1) for result in ends}) == 1


@pytest.mark.tiny
def test_the_page_holds_table_curves_film_and_asks_the_network_for_nothing(quick):
    page = (quick / "page.html").read_text()
    for word in (
        "kurt_channel t=0",
        "kurt_neuron",
        "kurt_flat",
        "The birth of a sink",
        "Held-out loss",
        "claim",
    ):
        assert word in page
    assert not re.findall(r"""(?:src|href)=["']https?://""", page)
    assert page.count('<img src="data:image/png;base64,') == 4 * 3, "four designs, looked at three times"
    assert suite_page(read_suite(quick)) == page


@pytest.mark.tiny
def test_the_film_shows_the_frame_that_is_chosen(quick, browser):
    browser.get((quick / "page.html").as_uri())

    def shown():
        return browser.execute_script(
            "return [...document.querySelectorAll('.film .reels > div')].map("
            "reel => [...reel.querySelectorAll('img')].findIndex(image => !image.hidden))"
        )

    assert shown() == [2, 2, 2, 2]
    browser.execute_script(
        "const s = document.querySelector('.film input'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )
    assert shown() == [0, 0, 0, 0]
    assert browser.find_element("css selector", ".film output").text == "step 0"
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.tiny
def test_a_suite_goes_on_with_what_is_missing_and_trains_nothing_twice(quick):
    suite = suite_named("prevention").quick()
    whole = run_suite(suite, quick)
    before = {file: file.stat().st_mtime_ns for file in quick.rglob("result.json")}
    lost = whole.folder_of("softpick", 0)
    lost.result_file.unlink()
    again = run_suite(suite, quick)
    after = {file: file.stat().st_mtime_ns for file in quick.rglob("result.json")}
    assert [file for file in after if after[file] != before[file]] == [lost.result_file]
    assert again.results["softpick", 0.006, 0].end == whole.results["softpick", 0.006, 0].end


@pytest.mark.tiny
def test_runs_are_compared_and_drawn_without_a_suite(quick, tmp_path, capsys):
    folders = [str(quick / "runs" / arm / "rate-0.006-seed-0") for arm in ("control", "softmax1")]
    assert [line.name for line in compare_folders(folders).lines] == ["control", "softmax1"]
    assert superweights(["lab", "page", *folders, "--out", str(tmp_path / "two.html")]) == 0
    assert "The birth of a sink" in (tmp_path / "two.html").read_text()
    capsys.readouterr()


@pytest.mark.tiny
def test_folders_that_hold_something_else_are_refused(quick, tmp_path):
    with pytest.raises(SuperweightsError, match="another suite"):
        run_suite(PREVENTION, quick)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SuperweightsError, match="holds no suite"):
        run_suite(PREVENTION, tmp_path)
    with pytest.raises(SuperweightsError, match="holds no run"):
        compare_folders([tmp_path])
    with pytest.raises(SuperweightsError, match="holds no suite"):
        read_suite(tmp_path)


@pytest.mark.unit
def test_no_worker_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(SuperweightsError, match="0 workers"):
        run_suite(PREVENTION, tmp_path / "to", workers=0)
    assert not (tmp_path / "to").exists()


def test_damaged_results_are_told_with_what_to_do(tmp_path):
    from superweights.lab.folder import RunFolder

    folder = RunFolder.begin(tmp_path / "run", PREVENTION.control)
    folder.result_file.write_text('{"status": "do')
    with pytest.raises(SuperweightsError, match="is not JSON") as told:
        folder.result()
    assert "remove that file" in told.value.hint


@pytest.mark.tiny
def test_a_killed_worker_costs_nothing_and_several_train_what_one_trains(quick, tmp_path, monkeypatch):
    suite = suite_named("prevention").quick()
    alone = read_suite(quick)
    killed = []

    def kill_the_first(label, done, total):
        if not killed:  # the workers have been started by now
            (child, *_) = multiprocessing.active_children()
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            killed.append(child.pid)

    together = run_suite(suite, tmp_path, workers=2, progress=kill_the_first)
    assert killed
    assert {key: result.end.loss for key, result in together.results.items()} == {
        key: result.end.loss for key, result in alone.results.items()
    }


@pytest.mark.tiny
def test_runs_are_jobs_that_any_worker_can_read(quick):
    entries = {}
    with Store(quick / "jobs.sqlite", {"prevention": "prevention"}, TRAINING) as store:
        for line in store.export():
            held = json.loads(line)
            entries[held["cell"]["cell"]] = held["numbers"]["status"]
            assert Training.from_json(json.dumps(held["cell"])).key == held["key"]
    runs = {str(file.parent.relative_to(quick / "runs")) for file in quick.rglob("result.json")}
    assert entries == dict.fromkeys(runs, "done")


@pytest.mark.unit
def test_a_run_that_cannot_be_trained_is_told_by_its_folder(tmp_path):
    (tmp_path / "runs" / "there").mkdir(parents=True)
    (tmp_path / "runs" / "there" / "letter.txt").write_text("x")
    work = Training.of("prevention", "there", PREVENTION.control)
    with pytest.raises(SuperweightsError, match=r"^there: .*holds no run"):
        work_through([work], tmp_path, 1, lambda label, done: None)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lab", "run", "nothing", "--to", "x"], "There is no suite 'nothing'"),
        (["lab", "train", "nothing", "--to", "x"], "There is no recipe 'nothing'"),
        (["lab", "train", "nothing.toml", "--to", "x"], "There is no recipe nothing.toml"),
        (["lab", "list", "--toml", "nothing"], "There is no recipe 'nothing'"),
        (["lab", "page", "nothing", "--out", "x.html"], "holds no run"),
    ],
)
def test_bad_words_are_told_with_what_there_is(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert superweights(arguments) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert said in err
    assert "hint:" in err


@pytest.mark.unit
def test_the_list_names_every_arm_and_the_recipe_of_one(capsys):
    assert superweights(["lab", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(arm.name in shown for suite in SUITES.values() for arm in suite.arms)
    assert superweights(["lab", "list", "--toml", "softpick"]) == 0
    assert 'attention = "softpick"' in capsys.readouterr().out


@pytest.mark.unit
def test_matched_and_negative_arms_claim_nothing():
    for arm in PREVENTION.arms:
        assert not (arm.negative or arm.matched) or not arm.prevents
    assert sum(arm.negative for arm in PREVENTION.arms) == 6
    assert all(len(arm.rates) >= 3 for arm in PREVENTION.arms if arm.dial == "optimizer.name")


@pytest.mark.tiny
def test_designs_that_add_parameters_have_a_control_with_as_many():
    from superweights.lab.models.building import build

    size = {
        name: build(PREVENTION.recipe(name).architecture, 0).num_parameters() for name in PREVENTION.names
    }
    for name, parameters in size.items():
        controls = (size["control"], size["wider"])
        assert min(abs(parameters / control - 1) for control in controls) <= 0.01, name


@pytest.mark.unit
def test_a_picture_is_a_png_that_holds_its_bytes():
    rows = [bytes([0, 128, 255]), bytes([255, 1, 2])]
    held = png(rows)
    assert held[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", held[16:24]) == (3, 2)
    start = held.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", held[start - 8 : start - 4])
    assert zlib.decompress(held[start : start + length]) == b"".join(b"\0" + row for row in rows)


@pytest.mark.tiny
def test_the_python_of_the_verbs_trains_and_profiles(tmp_path):
    from superweights.verbs.profile import profile
    from superweights.verbs.train import train

    recipe = PREVENTION.control
    recipe = replace(recipe, schedule=replace(recipe.schedule, steps=2, held_out=4))
    result = train(recipe, tmp_path / "run", seed=3)
    assert result.recipe.seed == 3
    record = profile(str(tmp_path / "run" / "model"), rounding=False)
    assert record.command == "profile"
    assert record.findings.parameters == result.end.parameters
