"""Recipes, and training them: the same weights whatever happened on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from superweights.errors import SuperweightsError
from superweights.lab.folder import RunFolder, append, lines
from superweights.lab.frames import load_frames
from superweights.lab.recipe import Recipe, Schedule
from superweights.lab.suites import PREVENTION, recipe_named
from superweights.lab.tasks import BackCopy, Prose
from superweights.lab.training import train

TINY = Schedule(steps=12, batch=4, measure_every=6, checkpoint_every=3, log_every=1, held_out=4)


def small(**schedule) -> Recipe:
    recipe = Recipe(task=BackCopy(length=12), schedule=replace(TINY, **schedule))
    return recipe.with_("architecture.width", 16)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# Recipes


@pytest.mark.unit
@pytest.mark.parametrize("name", PREVENTION.names)
def test_every_named_recipe_comes_back_from_toml(name):
    recipe = recipe_named(name)
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.fingerprint == recipe.fingerprint


@pytest.mark.unit
def test_a_recipe_for_files_comes_back_from_toml():
    recipe = Recipe(task=Prose(length=64, vocabulary=300, files=("a.txt", 'b "c".txt')),
                    architecture=Recipe().architecture.with_(vocabulary=300, context=64))  # fmt: skip
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.unit
def test_an_arm_is_another_one_with_one_dial_turned():
    for arm in PREVENTION.arms:
        one, other = PREVENTION.recipe(arm.name).to_dict(), PREVENTION.recipe(arm.of).to_dict()
        turned = [
            f"{table}.{dial}"
            for table in ("architecture", "task", "schedule", "optimizer")
            for dial in one[table]
            if one[table][dial] != other[table].get(dial)
        ]
        # An optimizer that rotates takes its first rotation with its name.
        assert [each for each in turned if each != "optimizer.rotation"] in ([arm.dial], []), arm.name


@pytest.mark.unit
def test_the_name_of_a_recipe_does_not_change_what_it_is():
    assert replace(Recipe(), name="other").fingerprint == Recipe().fingerprint
    assert Recipe().with_("seed", 1).fingerprint != Recipe().fingerprint


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[architecture]\nattenton = 'softmax'", "attenton is no field"),
        ("[schedule]\nstep = 3", "step is no field"),
        ("[schedule]\nsteps = 0", "steps is 0"),
        ("[schedule]\nbatch = 8\naccumulate = 3", "batch is 8"),
        ("[schedule]\nprecision = 'half'", "precision is to be one of"),
        ("[schedule]\nclip = 'high'", "clip is to be a"),
        ("[architecture]\ntied = 'yes'", "tied is to be"),
        ("seed = 1.5", "seed is to be a whole number"),
        ("[task]\nkind = 'poetry'", "no task 'poetry'"),
        ("[task]\nsymbols = 10", "task has 11 ids"),
        ("[task]\nlength = 100", "Rows have 100 tokens"),
        ("colour = 'red'", "colour is no field"),
        ("name = 'a/b'", "cannot be called"),
        ("seed = ", "not TOML"),
    ],
)
def test_a_recipe_that_cannot_be_says_what_is_wrong(text, said):
    with pytest.raises(SuperweightsError, match=said):
        Recipe.from_toml(text)


@pytest.mark.unit
@pytest.mark.parametrize("dial", ["width", "architecture.wide", "architecture", "seed.more", "task.kind"])
def test_a_dial_that_does_not_exist_cannot_be_turned(dial):
    with pytest.raises(SuperweightsError, match="no dial"):
        Recipe().with_(dial, 1)


@pytest.mark.unit
def test_the_learning_rate_rises_and_falls_to_its_tenth():
    schedule = Schedule(steps=100, warmup=0.1, final=0.1)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[9] < rates[10] == max(rates) == 1
    assert rates[-1] == pytest.approx(0.1, abs=0.001)
    assert all(a > b for a, b in pairwise(rates[10:]))


# Training


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(small(), folder)


class Killed(BaseException):
    """What no `except Exception` catches, as a signal would be."""


@pytest.mark.tiny
@pytest.mark.parametrize("at", [1, 5, 12])
def test_a_run_killed_at_any_step_ends_with_the_same_weights(whole, tmp_path, at):
    def kill(label, done, total):
        if done == at:
            raise Killed

    with pytest.raises(Killed):
        train(small(), tmp_path / "run", progress=kill)
    result = train(small(), tmp_path / "run")
    folder, expected = whole
    assert same(weights(tmp_path / "run"), weights(folder))
    assert result.end == expected.end
    assert RunFolder(tmp_path / "run").log() == RunFolder(folder).log()
    assert RunFolder(tmp_path / "run").profiles() == RunFolder(folder).profiles()


@pytest.mark.tiny
def test_the_steps_are_those_of_a_plain_loop(whole):
    """torch's own AdamW and cross-entropy, ten lines, and the same weights."""
    from superweights.lab.models.building import build
    from superweights.lab.optimizers.making import make_optimizer

    recipe = small()
    model = build(recipe.architecture, recipe.seed)
    optimizer = make_optimizer(recipe.optimizer, model)
    for step in range(12):
        ids = recipe.task.rows(step * 4, step * 4 + 4)
        logits = model(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * recipe.schedule.rate(step)
        optimizer.step()
        optimizer.zero_grad()
    found = weights(whole[0])
    for name, weight in model.state_dict().items():
        assert torch.allclose(found[name], weight, atol=2e-5), name


@pytest.mark.tiny
def test_accumulated_gradients_are_those_of_the_whole_batch(whole, tmp_path):
    train(small(accumulate=2), tmp_path / "run")
    one, two = weights(tmp_path / "run"), weights(whole[0])
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


@pytest.mark.tiny
def test_bfloat16_keeps_weights_in_float32_and_ends_elsewhere_nearby(whole, tmp_path):
    result = train(small(precision="bfloat16"), tmp_path / "run")
    one, two = weights(tmp_path / "run"), weights(whole[0])
    assert all(weight.dtype == torch.float32 for weight in one.values())
    assert not same(one, two)
    assert result.end.loss == pytest.approx(whole[1].end.loss, rel=0.02)


@pytest.mark.tiny
def test_a_run_writes_what_its_folder_promises(whole):
    folder, result = whole
    run = RunFolder.open(folder)
    assert [line["step"] for line in run.profiles()] == [0, 6, 12]
    assert [frame.step for frame in load_frames(run.frames)] == [0, 6, 12]
    frame = load_frames(run.frames)[-1]
    assert frame.attention.shape == (2, 1, 12, 12)
    assert np.allclose(frame.attention.astype(int).sum(-1), 255, atol=12)
    assert frame.norms.shape == (3, 12)
    assert run.recipe == small()
    assert result.tokens == small().tokens == 12 * 4 * 11
    assert result.optimizer_bytes > 2 * 4 * result.end.parameters
    assert result.end.super_weights is not None
    assert set(result.end.penalties)
    assert not list((folder / "checkpoints").glob("*")), "no checkpoint outlives its run"


@pytest.mark.tiny
def test_the_model_is_an_ordinary_checkpoint(whole):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(whole[0] / "model")
    ids = small().task.held_out(4)
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert loss == pytest.approx(whole[1].end.loss, rel=1e-5)


@pytest.mark.tiny
def test_a_finished_run_is_read_and_not_trained_again(whole):
    before = (whole[0] / "result.json").stat().st_mtime_ns
    assert train(small(), whole[0]) == whole[1]
    assert (whole[0] / "result.json").stat().st_mtime_ns == before


@pytest.mark.tiny
def test_checkpoints_that_a_finished_run_has_left_are_cleared_when_it_is_read(whole):
    """A program may end between the result and the clearing."""
    left = whole[0] / "checkpoints" / "step-00000003"
    left.mkdir(parents=True)
    train(small(), whole[0])
    assert not left.parent.exists()


@pytest.mark.tiny
def test_a_run_that_was_killed_while_it_wrote_its_recipe_begins_again(tmp_path):
    (tmp_path / f".recipe.toml.{'0' * 16}.partial").write_text("name")
    assert RunFolder.begin(tmp_path, small()).recipe.fingerprint == small().fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.tiny
def test_a_folder_of_another_recipe_is_refused_by_the_dial_that_differs(whole):
    with pytest.raises(SuperweightsError, match=r"weight_decay is 0.1 there and 0.2 here"):
        train(small().with_("optimizer.weight_decay", 0.2), whole[0])


@pytest.mark.tiny
def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(SuperweightsError, match="not empty"):
        train(small(), tmp_path)
    with pytest.raises(SuperweightsError, match="is a file"):
        train(small(), tmp_path / "thesis.tex")


@pytest.mark.tiny
def test_a_run_that_diverges_is_stopped_kept_and_told(tmp_path):
    recipe = small(clip=0.0, steps=60, warmup=0.0).with_("optimizer.learning_rate", 300.0)
    result = train(recipe, tmp_path / "run")
    assert result.status == "diverged"
    assert "At step" in result.why
    assert result.end is None
    assert result.step < 60
    assert RunFolder(tmp_path / "run").log()
    assert train(recipe, tmp_path / "run") == result


@pytest.mark.tiny
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    from superweights.lab.models.building import build

    def broken(architecture, seed):
        model = build(architecture, seed)
        model.model.embed_tokens.register_forward_hook(
            lambda module, given, out: out * float("nan") if model.training else None
        )
        return model

    monkeypatch.setattr("superweights.lab.training.build", broken)
    result = train(small(measure_every=0), tmp_path / "run")
    assert (result.status, result.step) == ("diverged", 0)
    assert "nan" in result.why


@pytest.mark.unit
def test_a_line_that_a_kill_has_cut_short_is_left_out(tmp_path):
    append(tmp_path / "log.jsonl", {"step": 1})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert list(lines(tmp_path / "log.jsonl")) == [{"step": 1}]


@pytest.mark.tiny
def test_event_files_hold_the_log(tmp_path):
    pytest.importorskip("tensorboard", reason="event files need tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(small(steps=4), tmp_path / "run", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = [(e.step, e.value) for e in events.Scalars("training/loss")]
    assert losses == [
        (line["step"], pytest.approx(line["loss"])) for line in RunFolder(tmp_path / "run").log()
    ]
    assert events.Scalars("profile/argmax_share")


# Processes


def command(recipe: Recipe, folder: Path, *before: str) -> list[str]:
    file = folder.with_suffix(".toml")
    file.write_text(recipe.to_toml())
    return [sys.executable, *before, "-m", "superweights", "lab", "train", str(file), "--to", str(folder)]


@pytest.mark.tiny
def test_two_processes_under_torchrun_end_where_one_does(whole, tmp_path):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    line = command(small(), tmp_path / "run", *launch)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("control") == 1, "one process speaks"
    one, two = weights(tmp_path / "run"), weights(whole[0])
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["processes"] == 2


@pytest.mark.tiny
def test_a_process_killed_by_a_signal_goes_on_to_the_same_weights(tmp_path):
    recipe = small(steps=400, measure_every=0, checkpoint_every=20)
    killed = subprocess.Popen(command(recipe, tmp_path / "run"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "run" / "result.json").exists(), "it was killed before its end"
    train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "other")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "other"))
