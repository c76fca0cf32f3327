"""The store of a sweep under fault: opened by many at once, ended by SIGTERM, changed on disk, on a full disk."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

import pytest

from superweights.address import Address
from superweights.editing import zero
from superweights.errors import SuperweightsError
from superweights.jobs import sqlite_errors
from superweights.jobs.owner import new_owner
from superweights.jobs.work import work
from superweights.stopping import Terminated, stopped_by_sigterm
from superweights.sweeps import Cell, Cut, Numbers, Store
from superweights.sweeps.cell import SWEEP

sys.path.insert(0, str(Path(__file__).parent))

import stores

pytestmark = pytest.mark.unit

MODELS = {"f" * 32: "a model"}
CELLS = [Cell("f" * 32, zero(Address("t", (i,))), Cut("a" * 64, 32, 8)) for i in range(10)]
KEYS = [cell.key for cell in CELLS]
RESULT = Numbers((1.0, 2.0))
forked = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked"
)


@pytest.fixture
def path(tmp_path):
    with Store(tmp_path / "s.sqlite", MODELS, SWEEP) as opened:
        opened.add(CELLS)
        opened.finish({KEYS[0]: RESULT, KEYS[1]: SuperweightsError("It broke.", hint="-")})
    return tmp_path / "s.sqlite"


def changed(path, statement, *values):
    """The file with one value in it changed, as a tool or a fault would: no checksum is made anew."""
    with sqlite3.connect(path) as db:
        db.execute(statement, values)
    db.close()


# --- opened together --------------------------------------------------------------------------------------


def open_each(paths, barrier, answers):
    complaints = []
    for path in paths:
        barrier.wait()
        try:
            with Store(path, MODELS, SWEEP) as store:
                store.add(CELLS)
        except SuperweightsError as error:
            complaints.append(str(error))
    answers.put(complaints)


@forked
def test_processes_that_open_a_new_store_together_all_get_it(tmp_path):
    """Of 60 such starts 12 were refused: "database is locked", "no store of a sweep"."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    paths = [tmp_path / f"{n}.sqlite" for n in range(15)]
    crew = [context.Process(target=open_each, args=(paths, barrier, answers)) for _ in range(4)]
    for process in crew:
        process.start()
    complaints = [answers.get(timeout=60) for _ in crew]
    for process in crew:
        process.join()
    assert complaints == [[], [], [], []]
    for path in paths:
        with Store(path, MODELS, SWEEP) as store:
            assert store.count(KEYS)["open"] == len(CELLS)


def test_a_store_that_another_holds_for_a_moment_is_waited_for(path):
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.3, other.execute, ("COMMIT",))
    timer.start()
    with Store(path, MODELS, SWEEP) as store:
        assert store.count(KEYS)["done"] == 1
    timer.join()
    other.close()


# --- ended ------------------------------------------------------------------------------------------------


class Preempted:
    """A task whose measurement is ended by SIGTERM."""

    fingerprint, name, keys, kind = "f" * 32, "a model", KEYS, SWEEP

    def opened(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    together = 10

    def do(self, payloads):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM is a signal")
def test_a_preempted_worker_gives_up_its_claims_and_it_is_no_death(path):
    for _ in range(5):  # more than the deaths after which a cell has failed
        with pytest.raises(Terminated):
            work(path, [Preempted()])
    with Store(path, MODELS, SWEEP) as store:
        assert store.count(KEYS) == {"open": 8, "done": 1, "failed": 1, "free": 8}
        assert len(store.claim(KEYS, new_owner(), 10)) == 8  # together: nothing says that one of them kills
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_second_sigterm_does_not_disturb_the_putting_away():
    put_away = []

    def work_and_put_away():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            put_away.append(True)

    with pytest.raises(Terminated), stopped_by_sigterm():
        work_and_put_away()
    assert put_away


def test_a_sigterm_that_comes_while_an_object_is_cleared_away_is_not_swallowed():
    class Clearing:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    def cleared():
        held = Clearing()
        del held
        time.sleep(5)

    with pytest.raises(Terminated), stopped_by_sigterm():
        cleared()


def test_a_handler_of_the_program_around_us_stays(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    try:
        with stopped_by_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [True]


@forked
def test_workers_that_the_caller_ended_have_not_died(path):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=claim_and_wait, args=(path,))
    process.start()
    with Store(path, MODELS, SWEEP) as store:
        while store.count(KEYS)["free"]:
            time.sleep(0.01)
        process.kill()
        process.join()
        store.release_the_gone({process.pid})
        with sqlite3.connect(path) as db:
            assert db.execute("SELECT sum(attempts) FROM cell").fetchone() == (0,)
        db.close()


def claim_and_wait(path):
    with Store(path, MODELS, SWEEP) as store:
        store.claim(KEYS, new_owner(), 10)
        time.sleep(60)


# --- changed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("numbers", json.dumps({"losses": [1.0, 3.0], "kl": None, "agreement": None})),
        ("numbers", json.dumps({"losses": [float("nan")], "kl": None, "agreement": None})),
        ("numbers", "[" * 3000),
        ("numbers", None),
        ("status", "failed"),
        ("sentence", "It did not."),
        ("versions", "{}"),
        ("checksum", None),
        ("checksum", "0" * 32),
        ("cell", CELLS[5].to_json()),
        ("cell", "{}"),
        ("cell", "[" * 3000),
        ("cell", CELLS[0].to_json().replace('"seed":0', '"seed":1e999')),
    ],
)
def test_a_row_that_was_changed_is_refused_and_gives_no_other_numbers(path, column, value):
    changed(path, f"UPDATE cell SET {column} = ? WHERE key = ?", value, KEYS[0])
    with Store(path, MODELS, SWEEP) as store, pytest.raises(SuperweightsError, match=r"s\.sqlite"):
        store.read(KEYS)


@pytest.mark.parametrize(
    ("column", "value"),
    [("lease", "soon"), ("attempts", "many"), ("numbers", b"\xff"), ("status", "over")],
)
def test_a_value_of_another_type_is_refused_by_the_table_itself(path, column, value):
    with pytest.raises(sqlite3.IntegrityError):
        changed(path, f"UPDATE cell SET {column} = ? WHERE key = ?", value, KEYS[0])


def test_a_lease_far_in_the_future_and_an_owner_that_is_no_name_hold_nothing_back(path):
    changed(path, "UPDATE cell SET owner = 'me', lease = 1e300 WHERE status = 'open'")
    with Store(path, MODELS, SWEEP) as store:
        store.release_the_gone()
        assert len(store.claim(KEYS, new_owner(), 10)) == 8


def test_what_is_settled_otherwise_than_finish_does_it_is_settled_again(path):
    changed(path, "UPDATE cell SET status = 'open' WHERE key = ?", KEYS[0])
    with Store(path, MODELS, SWEEP) as store:
        store.finish({KEYS[0]: Numbers((5.0,))})
        assert store.read(KEYS)[KEYS[0]].result == Numbers((5.0,))


# --- a full disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_that_whatever_sqlite_calls_it(tmp_path, monkeypatch, named):
    def full(*_, **__):
        raise OSError(named, os.strerror(named))

    monkeypatch.setattr(sqlite_errors.tempfile, "TemporaryFile", full)
    with pytest.raises(SuperweightsError, match="the disk is full") as caught:
        Store(tmp_path / "nowhere" / "s.sqlite", MODELS, SWEEP)
    assert "free some space" in caught.value.hint


def test_a_store_that_outgrows_its_disk_keeps_what_it_has(path):
    with Store(path, MODELS, SWEEP) as store:
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(SuperweightsError, match="the disk is full"):
            store.finish({key: Numbers(tuple(map(float, range(3000)))) for key in KEYS[2:]})
        assert store.count(KEYS)["done"] == 1


@forked
def test_workers_that_are_ended_leave_a_store_that_an_undisturbed_one_completes():
    """A few times each; `stores.py` does it often."""
    assert [lost for _, tried, lost in stores.rows(4) if tried] == [0, 0, 0]
