"""What a person is told of a long job: once, how long it will take, where that is more than a minute."""

from __future__ import annotations

import pytest

from superweights import bar, progress_bar

pytestmark = pytest.mark.unit


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    return now


def run_through(clock: list[float], seconds_each: float, total: int, label: str = "matrices") -> None:
    with progress_bar() as told:
        for done in range(total + 1):
            told(label, done, total)
            clock[0] += seconds_each


def test_a_part_of_more_than_a_minute_is_announced_once(clock, capsys):
    run_through(clock, 3.0, 100)
    assert capsys.readouterr().err.splitlines() == ["matrices: about 5 min."]


def test_a_short_part_is_not(clock, capsys):
    run_through(clock, 0.5, 100)
    assert capsys.readouterr().err == ""


def test_each_part_is_judged_by_itself(clock, capsys):
    with progress_bar() as told:
        for label, seconds in (("pass 1 of 2", 0.1), ("pass 2 of 2", 6.0)):
            for done in range(31):
                told(label, done, 30)
                clock[0] += seconds
    assert capsys.readouterr().err.splitlines() == ["pass 2 of 2: about 3 min."]


def test_the_rate_is_per_second_or_seconds_for_each():
    assert bar._rate(12.34) == "12.3/s"
    assert bar._rate(0.25) == "4.0 s each"
