"""Jobs of any kind: payloads in, results out, kept in a store; worked off in one process and in several."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from superweights.errors import SuperweightsError
from superweights.jobs import Kind, Store, run_jobs
from superweights.sweeps.cell import SWEEP

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Square:
    """A number to be squared: the smallest job there is."""

    of: int

    @property
    def key(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def subject(self) -> str:
        return "arithmetic"

    def to_json(self) -> str:
        return json.dumps({"of": self.of})

    @classmethod
    def from_json(cls, text: str, where: str = "") -> Square:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Squared:
    square: int


class Calculator:
    together = 2

    def do(self, payloads: Sequence[Square]) -> list[Squared | SuperweightsError]:
        return [
            SuperweightsError("Thirteen is not for squaring.", hint="take another.")
            if each.of == 13
            else Squared(each.of**2)
            for each in payloads
        ]


@dataclass(frozen=True)
class Arithmetic:
    keys: tuple[str, ...]
    kind = Kind("calculation", Square, Squared)
    fingerprint = "arithmetic"
    name = "arithmetic"

    @contextmanager
    def opened(self) -> Iterator[Calculator]:
        yield Calculator()

    def shared(self, workers: int) -> Arithmetic:
        return self


JOBS = [Square(n) for n in (2, 3, 13, 5)]
TASK = Arithmetic(tuple(job.key for job in JOBS))


def squares(entries) -> list[int | str]:
    return [
        entries[job.key].result.square if entries[job.key].result else entries[job.key].sentence
        for job in JOBS
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_has_its_result_or_its_sentence(tmp_path, workers):
    entries = run_jobs([TASK], JOBS, tmp_path / "jobs.sqlite", workers=workers)
    assert squares(entries) == [4, 9, "Thirteen is not for squaring.", 25]
    assert all(entries[job.key].payload == job for job in JOBS)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_is_asked_for_twice_is_done_once_and_waited_for_no_longer(tmp_path, workers):
    twice = Arithmetic((*TASK.keys, *TASK.keys))
    assert len(run_jobs([twice], [*JOBS, *JOBS], tmp_path / "jobs.sqlite", workers=workers)) == len(JOBS)


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    first = run_jobs([TASK], JOBS, tmp_path / "jobs.sqlite")
    monkeypatch.setattr(Calculator, "do", lambda *_: pytest.fail("done again"))
    assert run_jobs([TASK], JOBS, tmp_path / "jobs.sqlite") == first


def test_a_store_of_another_kind_is_refused_and_left_alone(tmp_path):
    run_jobs([TASK], JOBS, tmp_path / "jobs.sqlite")
    before = (tmp_path / "jobs.sqlite").read_bytes()
    with pytest.raises(SuperweightsError, match="holds a calculation, and no sweep"):
        Store(tmp_path / "jobs.sqlite", {"arithmetic": "arithmetic"}, SWEEP)
    assert (tmp_path / "jobs.sqlite").read_bytes() == before


def test_no_worker_is_nothing_to_do(tmp_path):
    with pytest.raises(SuperweightsError, match="nothing to do"):
        run_jobs([TASK], JOBS, tmp_path / "jobs.sqlite", workers=0)
