"""The store of a sweep, and the workers that share it: refusals, claims, kill -9, processes, Ray."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest
import torch
import trigger

import superweights.jobs.store as store_module
from superweights.address import Address
from superweights.editing import zero
from superweights.errors import SuperweightsError
from superweights.jobs.owner import is_gone, new_owner
from superweights.sweeps import Cell, Cut, Numbers, Store, even_steps, plan_each, plan_scale, prepare, sweep
from superweights.sweeps.cell import SWEEP
from superweights.sweeps.measure import Bench

MODELS = {"f" * 32: "a model"}
CELLS = [Cell("f" * 32, zero(Address("t", (i,))), Cut("a" * 64, 32, 8)) for i in range(10)]
KEYS = [cell.key for cell in CELLS]
RESULT = Numbers((1.0, 2.0), (0.1, 0.2), (1.0, 0.5))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


@pytest.fixture
def store(path):
    with Store(path, MODELS, SWEEP) as opened:
        opened.add(CELLS)
        yield opened


# --- what a store keeps -----------------------------------------------------------------------------------


@pytest.mark.unit
def test_results_and_failures_are_read_back_as_they_were(store, path):
    failure = SuperweightsError("It broke.", hint="mend it.")
    store.finish({KEYS[0]: RESULT, KEYS[1]: failure})
    with Store(path, MODELS, SWEEP) as again:
        again.add(CELLS)
        entries = again.read(KEYS)
        assert again.count(KEYS) == {"open": 8, "done": 1, "failed": 1, "free": 8}
    assert (entries[KEYS[0]].status, entries[KEYS[0]].result, entries[KEYS[0]].payload) == (
        "done",
        RESULT,
        CELLS[0],
    )
    assert entries[KEYS[0]].versions["torch"] == torch.__version__
    assert (entries[KEYS[1]].status, entries[KEYS[1]].sentence, entries[KEYS[1]].hint) == (
        "failed",
        "It broke.",
        "mend it.",
    )
    assert entries[KEYS[2]].status == "open"


@pytest.mark.unit
def test_a_result_that_is_there_is_not_replaced(store):
    store.finish({KEYS[0]: RESULT})
    store.finish({KEYS[0]: SuperweightsError("Late.", hint="-")})
    assert store.read(KEYS[:1])[KEYS[0]].result == RESULT


@pytest.mark.unit
def test_failed_cells_are_tried_again_when_asked(store):
    store.finish({KEYS[0]: RESULT, KEYS[1]: SuperweightsError("It broke.", hint="-")})
    store.reopen(KEYS)
    assert store.count(KEYS)["done"] == 1
    assert CELLS[1] in store.claim(KEYS, new_owner(), 10)


@pytest.mark.unit
def test_the_export_has_every_cell_as_a_line(store):
    store.finish({KEYS[0]: RESULT})
    lines = [json.loads(line) for line in store.export()]
    assert [line["key"] for line in lines] == KEYS
    assert Cell.from_json(json.dumps(lines[3]["cell"])) == CELLS[3]
    assert lines[0]["numbers"]["losses"] == [1.0, 2.0]
    assert lines[1]["numbers"] is None


# --- claims -----------------------------------------------------------------------------------------------


@pytest.mark.unit
def test_a_cell_is_claimed_once_in_the_order_of_the_plan_and_only_if_it_is_wanted(store, path):
    one, other = new_owner(), new_owner()
    with Store(path, MODELS, SWEEP) as second:
        assert store.claim(KEYS[:6], one, 4) == CELLS[:4]
        assert second.claim(KEYS[:6], other, 4) == CELLS[4:6]
        assert second.claim(KEYS[:6], other, 4) == []
        store.release(one)
        assert second.claim(KEYS[:6], other, 4) == CELLS[:4]


@pytest.mark.unit
def test_a_claim_ends_with_its_lease_unless_it_is_renewed(store, monkeypatch):
    one, other = new_owner(), new_owner()
    monkeypatch.setattr(store_module, "LEASE", -1.0)
    assert store.claim(KEYS, one, 10) == CELLS
    monkeypatch.setattr(store_module, "LEASE", 60.0)
    store.renew(one)
    assert store.claim(KEYS, other, 10) == []
    monkeypatch.setattr(store_module, "LEASE", -1.0)
    store.renew(one)
    assert store.claim(KEYS, other, 10) == CELLS


@pytest.mark.unit
def test_a_cell_that_was_killed_four_times_comes_last_when_the_work_is_started_again(store):
    """Whoever starts it again may have killed it himself; if it is deadly, the others are done before it."""
    for _ in range(4):
        owner = new_owner()
        store.claim(KEYS[:1], owner, 1)
        store.release(owner, died=True)
    store.reopen(KEYS[:3])
    one, other = new_owner(), new_owner()
    assert store.claim(KEYS[:3], one, 3) == CELLS[1:3]
    assert store.claim(KEYS[:3], other, 3) == CELLS[:1]
    assert store.count(KEYS[:3])["failed"] == 0


@pytest.mark.unit
def test_cells_whose_workers_died_are_measured_alone_and_fail_after_four_deaths(store):
    for deaths, group in ((0, 3), (1, 3), (2, 1), (3, 1)):
        owner = new_owner()
        claimed = store.claim(KEYS[:3], owner, 3)
        assert (deaths, len(claimed)) == (deaths, group)
        assert claimed[0] == CELLS[0]
        store.release(owner, died=True)
    owner = new_owner()
    assert store.claim(KEYS[:3], owner, 3) == CELLS[1:2]
    entry = store.read(KEYS)[KEYS[0]]
    assert entry.status == "failed"
    assert "died" in entry.sentence


@pytest.mark.unit
def test_giving_up_a_claim_alive_is_no_death(store):
    for _ in range(9):
        owner = new_owner()
        assert store.claim(KEYS, owner, 10) == CELLS
        store.release(owner)


@pytest.mark.unit
@pytest.mark.skipif(os.name != "posix", reason="only there can a process be looked at without ending it")
def test_the_claims_of_a_process_that_is_no_more_are_given_up_at_once(store):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive, elsewhere = new_owner(), "another-machine/-/1/-/0"
    gone = "/".join([*alive.split("/")[:2], str(dead.pid), *alive.split("/")[3:]])
    assert [is_gone(owner) for owner in (alive, elsewhere, gone)] == [False, False, True]
    assert alive.startswith(f"{platform.node()}/")
    for i, owner in enumerate((alive, elsewhere, gone)):
        store.claim(KEYS[3 * i : 3 * i + 3], owner, 3)
    store.release_the_gone()
    assert store.claim(KEYS, new_owner(), 10) == CELLS[9:] or store.count(KEYS)["free"] == 0
    assert store.count(KEYS[6:9])["free"] + store.count(KEYS[9:])["free"] < 4


# --- refusals ---------------------------------------------------------------------------------------------


def refuses(path, sentence, models=MODELS):
    """The store is refused with `sentence`, and not a byte of it is changed."""
    before = path.read_bytes()
    with pytest.raises(SuperweightsError, match=sentence):
        Store(path, models, SWEEP)
    assert path.read_bytes() == before


@pytest.mark.unit
def test_a_store_of_another_model_is_refused(path):
    Store(path, MODELS, SWEEP).close()
    refuses(path, r"a model \(fingerprint ffffffffffff\), not over another", {"0" * 32: "another"})


@pytest.mark.unit
def test_a_store_of_several_models_serves_each_of_them(path):
    Store(path, {"a": "one", "b": "two"}, SWEEP).close()
    Store(path, {"b": "two"}, SWEEP).close()
    with pytest.raises(SuperweightsError, match=r"holds a sweep over one .* two"):
        Store(path, {"b": "two", "c": "three"}, SWEEP)


@pytest.mark.unit
def test_a_store_of_another_version_is_refused(path):
    Store(path, MODELS, SWEEP).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    refuses(path, "another version of superweights .store version 99")


@pytest.mark.unit
def test_another_programs_database_is_refused(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipes (cake TEXT)")
    db.close()
    refuses(path, "is a database, but no store")


@pytest.mark.unit
def test_a_file_that_is_no_database_is_refused(path):
    path.write_text("These are my notes.\n" * 100)
    refuses(path, "is damaged, or no store")


@pytest.mark.unit
def test_a_damaged_store_is_refused(store, path):
    store.close()
    held = bytearray(path.read_bytes())
    held[5000:9000] = b"\xa5" * 4000
    path.write_bytes(held)
    refuses(path, "is damaged")


@pytest.mark.unit
@pytest.mark.parametrize("where", ["nowhere/s.sqlite", "."])
def test_a_place_where_no_file_can_be_is_refused(tmp_path, where):
    with pytest.raises(SuperweightsError, match="cannot be used"):
        Store(tmp_path / where, MODELS, SWEEP)


# --- workers ----------------------------------------------------------------------------------------------

SCRIPT = """
    import os, signal, sys
    import torch, trigger
    import superweights.sweeps.measure as measure
    from superweights.address import Address
    from superweights.sweeps import even_steps, plan_scale, prepare, sweep

    if __name__ == "__main__":
        measure.MOST_TOGETHER = 4
        measured, calls = measure.Bench.measure, []

        def measure_or_die(self, versions, compared=False):
            calls.append(versions)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return measured(self, versions, compared)

        measure.Bench.measure = measure_or_die
        address = Address("model.layers.1.mlp.down_proj.weight", (44, 17))
        setup = prepare(sys.argv[1], plan_scale([address], even_steps(13)), token_ids=trigger.prompts(4))
        sweep(setup, sys.argv[2])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("trigger")
    trigger.trigger_llama()[0].save_pretrained(place)
    return str(place)


def curve(folder, points=13, rows=4):
    address = Address("model.layers.1.mlp.down_proj.weight", (44, 17))
    return prepare(folder, plan_scale([address], even_steps(points)), token_ids=trigger.prompts(rows))


def held(path, setup):
    with Store(path, {setup.task.fingerprint: "m"}, SWEEP) as store:
        return {key: entry.result for key, entry in store.read(setup.task.keys).items()}


@pytest.mark.tiny
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a signal")
def test_a_killed_sweep_goes_on_and_ends_with_the_same_result(folder, path, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(SCRIPT))
    held_paths = filter(None, (os.environ.get("PYTHONPATH"), os.path.dirname(__file__)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(held_paths)}
    killed = subprocess.run([sys.executable, script, folder, path], env=environment, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    setup = curve(folder)
    before = held(path, setup)
    assert sum(numbers is not None for numbers in before.values()) == 8
    started = time.monotonic()
    outcomes = sweep(setup, path)
    assert time.monotonic() - started < store_module.LEASE  # it did not wait for the dead one's lease
    assert {outcome.status for outcome in outcomes} == {"done"}
    sweep(setup, tmp_path / "whole.sqlite")
    after, whole = held(path, setup), held(tmp_path / "whole.sqlite", setup)
    assert after == whole
    assert all(after[key] == numbers for key, numbers in before.items() if numbers is not None)


@pytest.mark.tiny
def test_a_finished_sweep_is_read_and_not_measured_again(folder, path, monkeypatch):
    setup = curve(folder)
    first = sweep(setup, path)
    monkeypatch.setattr(Bench, "measure", None)
    assert sweep(setup, path) == first


@pytest.mark.tiny
def test_an_interrupted_sweep_keeps_what_is_done_and_claims_nothing(folder, path, monkeypatch):
    monkeypatch.setattr("superweights.sweeps.measure.MOST_TOGETHER", 4)
    setup = curve(folder)

    def interrupt(label, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(setup, path, progress=interrupt)
    with Store(path, {setup.task.fingerprint: "m"}, SWEEP) as store:
        assert store.count(setup.task.keys) == {"open": 10, "done": 4, "failed": 0, "free": 10}


@pytest.mark.tiny
def test_a_checkpoint_that_changed_after_the_plan_is_refused(folder, path, tmp_path):
    changed = tmp_path / "changed"
    model = trigger.trigger_llama()[0]
    model.save_pretrained(changed)
    setup = curve(str(changed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    model.save_pretrained(changed)
    with pytest.raises(SuperweightsError, match="is not the checkpoint that this sweep was planned with"):
        sweep(setup, path)


@pytest.mark.tiny
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a signal")
def test_two_processes_share_a_store_and_one_that_is_killed_is_replaced(folder, path, tmp_path):
    setup, killed = curve(folder, points=150, rows=32), []

    def kill_one(label, done, total):
        children = [child for child in multiprocessing.active_children() if child.name.startswith("Spawn")]
        if not killed and done and children:
            killed.append(children[0])
            os.kill(children[0].pid, signal.SIGKILL)

    outcomes = sweep(setup, path, workers=2, progress=kill_one)
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert killed
    sweep(setup, tmp_path / "whole.sqlite")
    assert held(path, setup) == held(tmp_path / "whole.sqlite", setup)


@pytest.mark.tiny
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked"
)
def test_a_workers_complaint_reaches_the_one_who_asked(folder, path, monkeypatch):
    """With forked processes, which are there at once: nothing is computed in them."""
    forking = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forking)
    setup = prepare(
        folder, plan_each([Address("model.norm.weight", (0,))]), token_ids=torch.tensor([[1, 9999]])
    )
    with pytest.raises(SuperweightsError, match="has token 9999"):
        sweep(setup, path, workers=2)


@pytest.mark.tiny
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: superweights[ray]")
def test_ray_measures_the_same_cells_and_survives_the_death_of_an_actor(folder, path, tmp_path):
    import ray

    setup, killed = curve(folder), []

    def kill_one(label, done, total):
        names = ray.util.list_named_actors()
        if not killed and len(names) == 2:
            killed.append(names[0])
            ray.kill(ray.get_actor(names[0]))

    outcomes = sweep(setup, path, workers=2, ray=True, progress=kill_one)
    assert killed
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert not ray.is_initialized()
    sweep(setup, tmp_path / "whole.sqlite")
    assert held(path, setup) == held(tmp_path / "whole.sqlite", setup)


@pytest.mark.unit
def test_without_ray_the_hint_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "superweights.jobs.on_ray", raising=False)
    with pytest.raises(SuperweightsError, match=r"superweights\[ray\]"):
        importlib.import_module("superweights.jobs.on_ray")
