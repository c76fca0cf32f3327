"""A census: many models in, one data set out; bad ones cost nothing, and a killed one ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from families import save_tiny, tiny_model, token_ids
from planting import plant

from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.index import look_up, read_index
from superweights.jobs import Store
from superweights.record import Record
from superweights.verbs.census import census, names_in_list
from superweights.verbs.entering import CENSUS, SUBJECT, Enlisted
from superweights.verbs.known import known
from superweights.verbs.show import show

pytestmark = pytest.mark.tiny

# Matrices as they are used, stored the other way round, and stacked by expert.
TYPES = ("llama", "gpt2", "mixtral")
FILES = ("known.jsonl", "models.jsonl", "page.html")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder of tiny models, each with one planted weight, and where that lies in its file."""
    place = tmp_path_factory.mktemp("planted")
    for seed, kind in enumerate(TYPES):
        save_tiny(kind, place / f"{kind}_before", tiny_model(kind, seed=seed))
        model = tiny_model(kind, seed=seed)
        plant(model, token_ids(), seed=seed)
        save_tiny(kind, place / kind, model)
    return place, {kind: changed(place / f"{kind}_before", place / kind) for kind in TYPES}


def changed(before: Path, after: Path) -> tuple[str, tuple[int, ...], float]:
    """The one number in which two files differ: its tensor, index and value."""
    with open_checkpoint(str(before)) as old, open_checkpoint(str(after)) as new:
        places = [
            (name, tuple(at.tolist()), new.read(name)[tuple(at)].item())
            for name in new.tensors
            for at in (old.read(name) != new.read(name)).nonzero()
        ]
    (place,) = places
    return place


def listed(place: Path, names: list[str]) -> Path:
    place.write_text("# models\n\n" + "".join(f"{name}\n" for name in names))
    return place


@pytest.fixture(scope="module")
def counted(planted, tmp_path_factory):
    """The census of the planted models: its folder, and its record."""
    to = tmp_path_factory.mktemp("census")
    names = [str(planted[0] / kind) for kind in TYPES]
    return to, census(listed(to.parent / "models.txt", names), to, quick=True)


def test_the_planted_weight_of_each_model_is_a_line_of_the_data_set(planted, counted):
    lines = read_index(counted[0] / "known.jsonl")
    for kind, (tensor, index, value) in planted[1].items():
        mine = [line for line in lines if line.model == str(planted[0] / kind)]
        assert [(line.tensor, line.index) for line in mine] == [(tensor, index)]
        assert mine[0].value == pytest.approx(value)
        assert mine[0].conditions == ("windows begin without BOS",)


def test_the_index_grows_from_it(planted, counted, capsys):
    """A renamed copy is recognised by its numbers, with the lines of the census and not without."""
    place, truth = planted
    for kind in TYPES:
        copied = place / f"renamed-{kind}"
        shutil.copytree(place / kind, copied, dirs_exist_ok=True)
        (match,) = known(copied, index=[counted[0] / "known.jsonl"])
        assert (match.how, match.address.tensor, match.address.index) == ("fingerprint", *truth[kind][:2])
        assert known(copied) == []
        assert run(["known", str(copied), "--index", str(counted[0] / "known.jsonl"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["how"] == "fingerprint"


def test_each_model_has_a_line_with_its_profile_and_versions(counted):
    lines = [json.loads(line) for line in (counted[0] / "models.jsonl").read_text().splitlines()]
    assert [line["model_type"] for line in lines] == list(TYPES)
    for line in lines:
        assert len(line["peaks"]) == line["layers"] == 3
        assert line["profile"]["tokens"] == 64
        assert line["asked"]["quick"] is True
        assert "torch" in line["versions"]
    with open_checkpoint(lines[0]["name"]) as checkpoint:
        assert lines[0]["fingerprint"] == checkpoint.fingerprint()


def test_the_page_and_the_record_tell_every_model(counted, tmp_path):
    page = (counted[0] / "page.html").read_text()
    assert all(line.tensor.split(".")[-2] in page for line in counted[1].findings.weights)
    counted[1].write(tmp_path / "census.json")
    assert show(tmp_path / "census.json") == counted[1]
    assert "3 models entered" in str(show(tmp_path / "census.json"))


def test_bad_models_and_duplicates_cost_the_others_nothing(planted, tmp_path, capsys):
    place, names = planted[0], [str(planted[0] / kind) for kind in TYPES[:1]]
    (place / "empty").mkdir(exist_ok=True)
    shutil.copytree(place / "llama", place / "again", dirs_exist_ok=True)
    cut = shutil.copytree(place / "gpt2", place / "cut", dirs_exist_ok=True)
    (cut / "config.json").write_text('{"model_type": "nothing like it"}')
    file = listed(
        tmp_path / "list.txt", [str(place / "empty"), str(cut), *names, *names, str(place / "again")]
    )
    words = ["census", str(file), "--to", str(tmp_path / "to"), "--quick"]
    assert run([*words, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["status"], Path(each["name"]).name) for each in told] == [
        ("entered", "llama"), ("failed", "empty"), ("failed", "cut"), ("duplicate", "llama"), ("duplicate", "again"),
    ]  # fmt: skip
    assert all(each["sentence"] and each["hint"] for each in told if each["status"] == "failed")
    assert told[-1]["of"] == names[0]
    assert run([*words, "--strict"]) == 1
    said = capsys.readouterr().out
    assert f"{names[0]} stands twice" in said
    assert "is the same model as" in said


def test_exit_code_1_where_no_model_could_be_entered(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    file = listed(tmp_path / "list.txt", [str(tmp_path / "empty")])
    for _ in range(2):  # what failed is tried again, in the same folder
        assert run(["census", str(file), "--to", str(tmp_path / "to")]) == 1
        assert "0 models entered" in capsys.readouterr().out
    assert (tmp_path / "to" / "known.jsonl").read_text() == ""
    assert read_index(tmp_path / "to" / "known.jsonl") == ()


def test_an_empty_list_a_missing_one_and_a_strange_folder_are_refused(tmp_path):
    with pytest.raises(SuperweightsError, match="names no model"):
        census(listed(tmp_path / "none.txt", []), tmp_path / "to")
    with pytest.raises(SuperweightsError, match="Cannot read"):
        census(tmp_path / "missing.txt", tmp_path / "to")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(SuperweightsError, match="holds no census"):
        census(["embedded"], tmp_path / "full")
    assert not (tmp_path / "to").exists()
    assert os.listdir(tmp_path / "full") == ["mine.txt"]


def test_no_worker_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(SuperweightsError, match="1 subject with 0 workers"):
        census([str(tmp_path)], tmp_path / "to", workers=0)
    assert not (tmp_path / "to").exists()


def test_lines_of_a_list(tmp_path):
    file = listed(tmp_path / "list.txt", ["a/b", "  # said", "  c d  ", "e/f@main"])
    assert names_in_list(file) == ["a/b", "c d", "e/f@main"]


def test_a_file_that_holds_no_lines_of_an_index_is_refused_with_its_line(tmp_path):
    good = json.dumps(look_up("huggyllama/llama-7b")[0].known.to_json())
    (tmp_path / "bad.jsonl").write_text(good + '\n{"model": 3}\n')
    with pytest.raises(SuperweightsError, match="line 2"):
        read_index(tmp_path / "bad.jsonl")


def test_a_longer_list_goes_on_and_enters_no_model_twice(planted, tmp_path, monkeypatch):
    names = [str(planted[0] / kind) for kind in TYPES[:2]]
    first = census(names[:1], tmp_path / "to", quick=True).findings.models
    entered = []
    enter = sys.modules["superweights.verbs.entering"].enter

    def told(asked, *rest):
        entered.append(asked.name)
        return enter(asked, *rest)

    monkeypatch.setattr("superweights.verbs.entering.enter", told)
    both = census(names, tmp_path / "to", quick=True).findings.models
    assert entered == names[1:]
    assert both[:1] == first


def test_two_processes_enter_what_one_does(planted, counted, tmp_path):
    names = [str(planted[0] / kind) for kind in TYPES]
    models = census(names, tmp_path / "to", quick=True, workers=2).findings.models
    for mine, theirs in zip(models, counted[1].findings.models, strict=True):
        assert (mine.name, mine.verdict, mine.layers) == (theirs.name, theirs.verdict, theirs.layers)
        assert [str(weight) for weight in mine.weights] == [str(weight) for weight in theirs.weights]
        assert mine.peaks == pytest.approx(theirs.peaks, rel=1e-5)


SCRIPT = """
    import os, signal, sys, warnings
    import superweights.verbs.census as verb
    import superweights.verbs.entering as job
    import transformers.models.llama.modeling_llama, transformers.models.gpt2.modeling_gpt2
    from superweights.jobs import Store

    HOMES = {"claim": Store, "finish": Store, "write_text": verb, "find": job, "profile": job, "index_lines": job}

    def die_at(moment, name, number):
        home, made = HOMES[name], getattr(HOMES[name], name)
        calls = []

        def called(*given, **further):
            calls.append(name)
            if moment == "before" and len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            done = made(*given, **further)
            if moment == "after" and len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        setattr(home, name, called)

    warnings.simplefilter("ignore", DeprecationWarning)
    for moment in sys.argv[3:]:
        when, name, number = moment.split("-")
        child = os.fork()  # nothing has been computed yet, so that no thread is left behind
        if child == 0:
            die_at(when, name, int(number))
            verb.census(sys.argv[1], sys.argv[2], quick=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, moment
"""
# The first model is begun again seven times: more often than a store lets workers of one run die of it.
MOMENTS = (
    "after-claim-1", "before-find-1", "after-find-1", "after-index_lines-1", "before-profile-1", "after-profile-1",
    "before-finish-1", "after-finish-1", "before-write_text-2", "after-write_text-2",
)  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed ones are forked")
def test_a_census_that_is_killed_ten_times_ends_with_the_same_data_set(planted, counted, tmp_path):
    file, script = tmp_path / "models.txt", tmp_path / "killed.py"
    shutil.copy(counted[0].parent / "models.txt", file)
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    killed = subprocess.run(
        [sys.executable, script, file, tmp_path / "killed", *MOMENTS], env=environment, timeout=600,
        capture_output=True, text=True,
    )  # fmt: skip
    assert killed.returncode == 0, killed.stderr
    assert not (tmp_path / "killed" / "page.html").exists()
    last = census(file, tmp_path / "killed", quick=True)
    whole = census(file, tmp_path / "whole", quick=True)
    assert last == whole
    assert not last.findings.failed
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "killed")) == sorted(os.listdir(tmp_path / "whole"))


def test_an_interrupt_keeps_what_is_done_and_enters_no_half_searched_model(planted, tmp_path):
    names = [str(planted[0] / kind) for kind in TYPES[:2]]

    def interrupt(label, done, total):
        if "gpt2, " in label and "prov" in label:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        census(names, tmp_path / "to", quick=True, progress=interrupt)
    assert "the same command goes on" in stopped.value.__notes__[0]
    with Store(tmp_path / "to" / "jobs.sqlite", {SUBJECT: SUBJECT}, CENSUS) as store:
        held = [json.loads(line) for line in store.export()]
    assert [(Path(each["cell"]["name"]).name, each["status"]) for each in held] == [
        ("llama", "done"),
        ("gpt2", "open"),
    ]


def test_a_model_that_changes_meanwhile_is_told_and_not_entered(planted):
    from superweights.subject import Source
    from superweights.verbs.entering import Clerk

    asked = Enlisted(str(planted[0] / "llama"), "f" * 32, True, False, 0, "auto", "auto")
    (told,) = Clerk(Source(), lambda *_: None).do([asked])
    assert isinstance(told, SuperweightsError)
    assert "is not the checkpoint that was enlisted" in told.message


def test_the_record_reads_back_as_json(counted):
    assert isinstance(counted[1], Record)
    assert json.loads(counted[1].to_json())["findings"]["conditions"]["listed"] == 3
