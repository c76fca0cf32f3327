"""Testbeds A and B: what the rows hold, against closed forms and against the text they came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from superweights.errors import SuperweightsError
from superweights.lab.tasks import BackCopy, Prose, open_task

pytestmark = pytest.mark.unit


def test_backcopy_rows_keep_the_rule_at_every_position():
    task = BackCopy(symbols=20, triggers=2, length=24)
    ids = task.rows(0, 500)
    copy, bigram = task.roles(ids)["copy"], task.roles(ids)["bigram"]
    assert bool((ids[:, 0] == 0).all())
    assert bool((ids[:, 1] > task.triggers).all())
    assert not bool((ids[:, 1:] == 0).any())
    back = torch.cat([ids[:, :2], ids[:, :-2]], 1)
    assert bool((ids[copy] == back[copy]).all())
    trigger = (ids >= 1) & (ids <= task.triggers)
    assert not bool((trigger[:, 1:] & trigger[:, :-1]).any()), "a trigger never follows a trigger"
    assert copy.sum() > 100
    assert not bool((copy & bigram).any())


def test_backcopy_symbols_are_as_frequent_as_the_chain_says():
    task = BackCopy(symbols=12, triggers=3, length=10)
    ids = task.rows(0, 40_000).numpy()
    for position, (settled, after) in enumerate(task.chances(), start=1):
        if position in (1, 4, 9):
            expected = settled.copy()
            # A trigger stands where it follows a symbol: by which of them, the table's rows say.
            if position > 1:
                before = task.chances()[position - 2][0]
                expected[: task.triggers] = before @ task.table[:, : task.triggers]
            seen = np.bincount(ids[:, position] - 1, minlength=task.symbols) / len(ids)
            error = np.sqrt(expected * (1 - expected) / len(ids)) + 1e-9
            assert (np.abs(seen - expected) < 5 * error).all(), position
            assert settled.sum() + after.sum() == pytest.approx(1)


def test_backcopy_bigrams_follow_the_table():
    task = BackCopy(symbols=8, triggers=1, length=30)
    ids = task.rows(0, 4000)
    drawn = task.roles(ids)["bigram"]
    before = torch.cat([ids[:, :1], ids[:, :-1]], 1)
    for symbol in (3, 7):
        follows = ids[drawn & (before == symbol)]
        seen = torch.bincount(follows - 1, minlength=8).numpy() / len(follows)
        assert np.abs(seen - task.table[symbol - 1]).max() < 0.02


def test_the_floor_of_backcopy_is_what_the_true_chances_cost():
    task = BackCopy(symbols=16, triggers=2, length=20)
    ids = task.rows(0, 20_000)
    cost = -np.log(task.table[ids[:, 1:-1].numpy() - 1, ids[:, 2:].numpy() - 1])
    cost[task.roles(ids)["copy"][:, 2:].numpy()] = 0
    paid = (np.log(task.symbols - task.triggers) * len(ids) + cost.sum()) / (len(ids) * (task.length - 1))
    assert task.floor_nats() == pytest.approx(paid, rel=0.01)


def test_a_row_is_the_same_whoever_asks_for_it():
    task = BackCopy()
    assert torch.equal(task.rows(1000, 1100)[40:50], BackCopy().rows(1040, 1050))
    assert not torch.equal(task.rows(0, 8), task.held_out(8))
    assert not torch.equal(task.rows(0, 8), BackCopy(seed=1).rows(0, 8))


@pytest.mark.parametrize("wrong", [{"length": 3}, {"triggers": 0}, {"symbols": 4}])
def test_a_task_that_cannot_be_is_refused(wrong):
    with pytest.raises(SuperweightsError, match="No task"):
        BackCopy(**wrong)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    words = np.random.default_rng(0).choice(["alpha ", "beta ", "gamma\n", "delta, ", "ten 10 "], 90_000)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("".join(words), encoding="utf-8")
    return path


def test_prose_rows_are_the_text_with_bos_in_front(text_file, tmp_path):
    spec = Prose(length=32, vocabulary=300, files=(str(text_file),))
    task = open_task(spec, tmp_path)
    tokenizer = task.tokenizer
    text = text_file.read_text()
    rows = task.rows(0, 3)
    assert bool((rows[:, 0] == 0).all())
    for row in rows:
        assert tokenizer.decode(row[1:]).removesuffix("<|end|>") in text
    assert tokenizer("alpha")["input_ids"][0] == tokenizer.bos_token_id == 0


def test_an_epoch_of_prose_visits_every_row_once_and_the_next_in_another_order(text_file, tmp_path):
    task = open_task(Prose(length=64, vocabulary=300, files=(str(text_file),)), tmp_path)
    epoch = task.epoch_rows
    one, two = task.rows(0, epoch), task.rows(epoch, 2 * epoch)
    assert not torch.equal(one, two)
    assert sorted(map(tuple, one.tolist())) == sorted(map(tuple, two.tolist()))
    again = open_task(Prose(length=64, vocabulary=300, files=(str(text_file),)), tmp_path)
    assert torch.equal(again.rows(5, 9), one[5:9])


def test_what_is_held_out_of_prose_is_not_in_training(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("".join(f"{n:06d} " for n in range(100_000)), encoding="utf-8")
    task = open_task(Prose(length=256, vocabulary=300, files=(str(path),)), tmp_path)
    tokenizer = task.tokenizer

    def numbers(rows):
        found = set()
        for row in rows:  # a row's first and last number may be cut
            found |= set(tokenizer.decode(row[1:]).replace("<|end|>", "").split(" ")[1:-1])
        return found

    held_out, training = numbers(task.held_out(10**6)), numbers(task.rows(0, task.epoch_rows))
    assert len(held_out) > 2000
    assert not held_out & training


def test_a_text_shorter_than_a_row_is_refused_with_what_would_fit(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("".join(f"{n:05d} " for n in range(4000)), encoding="utf-8")
    with pytest.raises(SuperweightsError, match="too short"):
        open_task(Prose(length=256, vocabulary=300, files=(str(path),)), tmp_path)


def test_files_that_are_absent_or_no_text_are_refused(tmp_path):
    with pytest.raises(SuperweightsError, match="no file"):
        open_task(Prose(files=(str(tmp_path / "none.txt"),)), tmp_path)
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 " * 30_000)
    with pytest.raises(SuperweightsError, match="not UTF-8"):
        open_task(Prose(vocabulary=300, files=(str(path),)), tmp_path)
