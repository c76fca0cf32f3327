"""Sweeps: what is measured against separate evaluations by transformers, the grids, and the command."""

from __future__ import annotations

import json
import re

import families
import pytest
import torch
import trigger
from planting import down_projections
from small import embedded_folder
from torch.nn import functional
from transformers import AutoModelForCausalLM

import superweights.verbs.sweep
from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.editing import Edit, scale, zero
from superweights.errors import SuperweightsError
from superweights.stream import streaming
from superweights.sweeps import (
    SCALES,
    Cell,
    Cut,
    Reading,
    draw,
    even_steps,
    plan_all,
    plan_controls,
    plan_each,
    plan_pairs,
    plan_scale,
    prepare,
    sweep,
)
from superweights.sweeps.controls import largest_others, random_others
from superweights.sweeps.measure import Bench
from superweights.sweeps.pieces import pieces_of

WEIGHTS = [Address("model.layers.1.mlp.down_proj.weight", (i, 17)) for i in (44, 46, 17)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama whose first token makes three rows of one column massive."""
    place = tmp_path_factory.mktemp("trigger")
    model, planted = trigger.trigger_llama()
    assert {(w.parameter, w.index) for w in planted.first} == {(a.tensor, a.index) for a in WEIGHTS}
    model.save_pretrained(place)
    return str(place)


# --- cells and grids ------------------------------------------------------------------------------------


def cell(**changed) -> Cell:
    edits = zero(WEIGHTS[:2])
    return Cell(**{"model": "f" * 32, "edits": edits, "cut": Cut("a" * 64, 32, 8), **changed})


@pytest.mark.unit
def test_a_cells_key_does_not_depend_on_the_order_of_its_edits_and_on_everything_else():
    assert cell().key == cell(edits=zero(reversed(WEIGHTS[:2]))).key
    others = [
        cell(model="e" * 32),
        cell(edits=zero(WEIGHTS)),
        cell(edits=scale(WEIGHTS[:2], 0.5)),
        cell(cut=Cut("b" * 64, 32, 8)),
        cell(cut=Cut("a" * 64, 32, 9)),
        cell(scores=("loss", "kl")),
        cell(dtype="bfloat16"),
        cell(seed=1),
    ]
    assert len({one.key for one in [cell(), *others]}) == 1 + len(others)


@pytest.mark.unit
def test_cells_survive_json():
    one = cell(edits=(Edit(WEIGHTS[0], value=1 / 3), Edit(WEIGHTS[1], factor=0.1)), scores=("agreement",))
    assert Cell.from_json(one.to_json()) == one
    assert one.scores == ("loss", "agreement")
    assert Cell.from_json(one.to_json()).key == one.key


@pytest.mark.unit
def test_an_unknown_score_is_refused():
    with pytest.raises(SuperweightsError, match="'accuracy'"):
        cell(scores=("accuracy",))


@pytest.mark.unit
def test_the_grids_have_the_points_that_they_should():
    curve = plan_scale(WEIGHTS[:1])
    assert [point.x for point in curve] == list(SCALES)
    assert len(SCALES) == 13
    assert (min(SCALES), max(SCALES)) == (0, 3)
    assert len(plan_scale(WEIGHTS)) == 4 * 13  # each, and all together
    assert even_steps(4) == (0, 1, 2, 3)
    assert [len(p.edits) for p in plan_each(WEIGHTS)] == [1, 1, 1]
    assert [len(p.edits) for p in plan_pairs(WEIGHTS)] == [1, 1, 1, 2, 2, 2]
    assert [len(p.edits) for p in plan_all(WEIGHTS)] == [1, 1, 1, 3]
    assert plan_all(WEIGHTS[:1]) == plan_each(WEIGHTS[:1])
    with pytest.raises(SuperweightsError, match="no weight"):
        plan_scale([])


@pytest.mark.tiny
def test_the_largest_others_are_those_that_torch_finds_in_the_whole_tensor(folder):
    name = WEIGHTS[0].tensor
    with open_checkpoint(folder) as checkpoint:
        found = largest_others(checkpoint, [name], 50, WEIGHTS)
        tensor = checkpoint.read(name).clone()
        for address in WEIGHTS:
            tensor[address.index] = 0
        expected = tensor.abs().flatten().topk(50).indices
        assert [a.index for a in found] == [
            tuple(map(int, torch.unravel_index(i, tensor.shape))) for i in expected
        ]
        everything = plan_controls(checkpoint, WEIGHTS, counts=(5, 50))
        blocks = [n for n, info in checkpoint.tensors.items() if ".layers." in n and len(info.shape) == 2]
        others = torch.cat([(tensor if n == name else checkpoint.read(n)).flatten() for n in blocks])
        places = [edit.address for edit in everything[1].edits]
        values = [abs(checkpoint.element(place.tensor, place.index)) for place in places]
    torch.testing.assert_close(torch.tensor(values), others.abs().topk(50).values)
    assert [(p.series.split(" ")[0], p.x, len(p.edits)) for p in everything] == [
        (kind, k, k) for kind in ("largest", "largest", "random") for k in (5, 50)
    ]


@pytest.mark.tiny
def test_random_controls_are_distinct_seeded_nested_and_never_the_weights_themselves(folder):
    with open_checkpoint(folder) as checkpoint:
        name, size = WEIGHTS[0].tensor, 64 * 96
        drawn = random_others(checkpoint, name, 1000, WEIGHTS, seed=3)
        assert len(set(drawn)) == 1000
        assert not set(drawn) & set(WEIGHTS)
        assert drawn == random_others(checkpoint, name, 1000, WEIGHTS, seed=3)
        assert drawn != random_others(checkpoint, name, 1000, WEIGHTS, seed=4)
        assert len(random_others(checkpoint, name, 10**6, WEIGHTS, seed=3)) == size - 3


@pytest.mark.unit
@pytest.mark.parametrize(("rows", "length", "vocabulary"), [(5, 9, 100), (3, 300, 50_000), (1, 2, 10**7)])
def test_the_pieces_of_a_batch_cover_every_prediction_once_in_order(rows, length, vocabulary):
    grid = torch.arange(rows * (length - 1)).reshape(rows, length - 1)
    pieces = list(pieces_of(rows, length, vocabulary))
    covered = [grid[p.rows, p.positions].reshape(-1) for p in pieces]
    assert torch.equal(torch.cat(covered), grid.reshape(-1))
    assert all(torch.equal(c, grid.reshape(-1)[p.flat]) for c, p in zip(covered, pieces, strict=True))


# --- the numbers, against transformers ------------------------------------------------------------------


def by_hand(model, edits, ids):
    """Loss of each row by transformers' own loss, and log-probabilities, with the edits written by hand."""
    held = [(model.get_parameter(e.address.tensor), e) for e in edits]
    with torch.no_grad():
        old = [float(p[e.address.index]) for p, e in held]
        for parameter, edit in held:
            parameter[edit.address.index] = edit.applied_to(float(parameter[edit.address.index]))
        try:
            losses = torch.stack(
                [model(input_ids=row[None], labels=row[None], use_cache=False).loss for row in ids]
            ).double()
            return losses, model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
        finally:
            for (parameter, edit), value in zip(held, old, strict=True):
                parameter[edit.address.index] = value


@pytest.mark.tiny
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "falcon", "gemma3_text", "blt"])
@pytest.mark.parametrize("resident", [True, False])
def test_every_version_scores_what_a_separate_evaluation_gives(model_type, resident, tmp_path, monkeypatch):
    """`blt` is no chain of blocks, so that its versions take passes of their own. Two batches, several pieces."""
    monkeypatch.setattr("superweights.sweeps.measure._TOKENS", 20)
    monkeypatch.setattr("superweights.sweeps.measure._TOKENS_STREAMED", 20)
    monkeypatch.setattr("superweights.sweeps.pieces._PIECE_BYTES", 256 * 4 * 4)
    families.save_tiny(model_type, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = families.token_ids(3, 9)
    with open_checkpoint(str(tmp_path)) as checkpoint:
        names = [n for n in down_projections(whole) if n in checkpoint.tensors]
        edits = [Edit(Address(name, (1, 2)), value=30.0) for name in names[:3]]
        versions = [(), *((edit,) for edit in edits), tuple(edits), (Edit(edits[0].address, factor=1.0),)]
        with streaming(checkpoint, dtype="float32", resident=resident) as model:
            found = Bench(model, ids).measure(versions, compared=True)
    base, log_p = by_hand(whole, (), ids)
    for edits_made, numbers in zip(versions, found, strict=True):
        losses, log_q = by_hand(whole, edits_made, ids)
        kl = functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean(1)
        agreement = (log_q.argmax(-1) == log_p.argmax(-1)).float().mean(1)
        for got, expected in ((numbers.losses, losses), (numbers.kl, kl), (numbers.agreement, agreement)):
            torch.testing.assert_close(torch.tensor(got), expected.float(), rtol=1e-5, atol=1e-5)
    assert found[-1].losses == found[0].losses == pytest.approx(base.tolist(), rel=1e-5)


@pytest.mark.tiny
def test_a_version_that_cannot_be_made_says_why_and_the_others_are_measured(folder):
    outside = Edit(Address(WEIGHTS[0].tensor, (10**6, 0)), factor=0.0)
    absent = Edit(Address("model.layers.77.mlp.down_proj.weight", (0, 0)), factor=0.0)
    infinite = Edit(WEIGHTS[0], value=3e38)
    twice = (Edit(WEIGHTS[0], factor=0.0), Edit(WEIGHTS[0], factor=0.5))
    good = zero(WEIGHTS[:1])
    with open_checkpoint(folder) as checkpoint, streaming(checkpoint) as model:
        bench = Bench(model, trigger.prompts(4))
        found = bench.measure([(outside,), good, (absent,), twice, (infinite,)])
        alone = bench.measure([good])
    assert found[1] == alone[0]
    said = [str(found[i]) for i in (0, 2, 3, 4)]
    assert all(isinstance(found[i], SuperweightsError) for i in (0, 2, 3, 4))
    for words, sentence in zip(("outside", "layers.77", "one weight", "not a number"), said, strict=True):
        assert words in sentence


@pytest.mark.tiny
def test_the_joint_loss_of_weights_that_back_each_other_up_is_beyond_their_sum(folder, tmp_path):
    ids = trigger.prompts(16)
    outcomes = sweep(prepare(folder, plan_all(WEIGHTS), token_ids=ids), tmp_path / "s.sqlite")
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    base, *singles, joint = (by_hand(whole, o.point.edits, ids)[0] for o in outcomes)
    expected = (joint - base) - sum(single - base for single in singles)
    assert outcomes[-1].loss.value == pytest.approx((joint - base).mean().item(), abs=1e-5)
    assert outcomes[-1].beyond_sum.value == pytest.approx(expected.mean().item(), abs=1e-5)
    assert outcomes[-1].beyond_sum.standard_error == pytest.approx(expected.std().item() / 4, abs=1e-5)
    assert outcomes[0].loss is None
    assert all(outcome.beyond_sum is None for outcome in outcomes[:-1])


@pytest.mark.real
def test_the_embedded_models_two_super_weights_cost_more_together_than_their_sum(tmp_path):
    embedded_folder()  # skips where it is not installed
    pair = [
        Address("model.layers.11.mlp.down_proj.weight", (507, 1229)),
        Address("model.layers.2.mlp.down_proj.weight", (507, 90)),
    ]
    setup = prepare("embedded", plan_pairs(pair), Reading(window=64, windows=8))
    first, second, joint = sweep(setup, tmp_path / "s.sqlite")[1:]
    assert first.loss.interval()[0] > 1.0
    assert second.loss.interval()[0] > 0.0
    assert joint.beyond_sum.interval()[0] > 0.1
    assert joint.perplexity.value > 1.5 * first.perplexity.value


# --- pictures and the command ---------------------------------------------------------------------------


@pytest.mark.tiny
def test_the_picture_is_well_formed_and_has_every_point(folder, tmp_path):
    from xml.etree import ElementTree

    plan = [*plan_pairs(WEIGHTS), *plan_scale(WEIGHTS[:2])]
    outcomes = sweep(prepare(folder, plan, token_ids=trigger.prompts(4)), tmp_path / "s.sqlite")
    tree = ElementTree.fromstring(draw(outcomes))
    space = "{http://www.w3.org/2000/svg}"
    dots = [dot for dot in tree.iter(f"{space}circle") if dot.get("r") == "3"]
    assert len(dots) == 3 * 13
    assert len(list(tree.iter(f"{space}polyline"))) == 3
    words = " ".join(text.text for text in tree.iter(f"{space}text"))
    assert all(str(address) in words for address in WEIGHTS)


def command(*words) -> int:
    return run(["sweep", *map(str, words)])


@pytest.mark.tiny
def test_the_command_prints_json_lines_and_goes_on_from_its_store(folder, tmp_path, capsys):
    store, picture, out = tmp_path / "s.sqlite", tmp_path / "p.svg", tmp_path / "o.jsonl"
    words = ["--window", 12, "--windows", 3, "--store", store, "--json"]
    for address in WEIGHTS[:2]:
        words += ["--weights", address]
    assert command(folder, "--grid", "pairs", "--plot", picture, "--score", "kl", *words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["n_edits"] for line in lines] == [0, 1, 1, 2]
    assert lines[1]["edits"] == [f"{WEIGHTS[0]}=0.0"]
    assert all(line["status"] == "done" and line["kl"]["n"] == 3 for line in lines)
    assert lines[3]["beyond_sum"]["unit"] == "nats/token"
    assert picture.read_text().startswith("<svg")
    assert command(folder, "--grid", "all", "--grid", "scale", "--out", out, "--score", "kl", *words) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["perplexity"] for line in again[:3]] == [line["perplexity"] for line in lines[:3]]
    stored = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["key"] for line in lines} | {line["key"] for line in again} == {s["key"] for s in stored}
    assert all(s["numbers"]["losses"] for s in stored)


@pytest.mark.tiny
def test_an_interrupt_says_where_the_results_are_kept(folder, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(superweights.verbs.sweep, "measure", interrupted)
    words = ["--weights", WEIGHTS[0], "--window", 12, "--windows", 3, "--store", tmp_path / "s.sqlite"]
    assert command(folder, *words) == 130
    said = "".join(capsys.readouterr().err.split())
    assert f"keptin{tmp_path / 's.sqlite'}:" in said


@pytest.mark.tiny
def test_the_command_prints_a_table_and_says_what_failed(folder, tmp_path, capsys):
    wrong = Address(WEIGHTS[0].tensor, (99, 99))
    words = ["--weights", WEIGHTS[0], "--weights", wrong, "--window", 12, "--windows", 3]
    assert command(folder, "--grid", "pairs", *words, "--store", tmp_path / "s.sqlite") == 1
    said = capsys.readouterr()
    assert f"{wrong} lies outside the tensor" in " ".join(said.out.split())
    assert re.search(r"without A and B +failed", said.out)
    assert "as it is" in said.out
    assert "no tokenizer" in said.err
    assert str(tmp_path) in "".join(said.err.split())


@pytest.mark.tiny
def test_the_weights_come_from_a_record_of_a_search_of_the_same_checkpoint(folder, tmp_path, capsys):
    from superweights.record import Record, SuperWeight

    with open_checkpoint(folder) as checkpoint:
        fingerprint = checkpoint.fingerprint()
    verdicts = zip(WEIGHTS, ("critical", "benign", "partial"), strict=True)
    found = [SuperWeight(address, 1.0, verdict=verdict).to_json() for address, verdict in verdicts]
    record = tmp_path / "found.json"
    words = ["--window", 12, "--windows", 3, "--grid", "each", "--json", "--from", record]
    for held, code in ((fingerprint, 0), ("0" * 32, 1)):
        inputs = {"name": folder, "fingerprint": held}
        record.write_text(Record("find", inputs, {}, findings={"candidates": found}).to_json())
        assert command(folder, *words, "--store", tmp_path / "s.sqlite") == code
    said = capsys.readouterr()
    edits = [json.loads(line)["edits"] for line in said.out.splitlines()]
    assert edits == [[], [f"{WEIGHTS[0]}=0.0"], [f"{WEIGHTS[2]}=0.0"]]
    assert "is about another checkpoint" in said.err
    record.write_text("{}")
    assert command(folder, *words, "--store", tmp_path / "s.sqlite") == 1
    assert "holds no record" in capsys.readouterr().err


@pytest.mark.tiny
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--grid", "spiral"], "no grid called 'spiral'"),
        (["--plot", "curve.png"], "Cannot draw into curve.png"),
        (["--plot", "nowhere/curve.svg"], "Cannot write nowhere/curve.svg"),
        (["--weights", "not an address"], "'not an address' is not an address"),
        (["--from", "nowhere.json"], "Cannot read nowhere.json: No such file"),
        (["--score", "taste", "--weights", "a.0.b[1, 2]"], "no score called 'taste'"),
        ([], "No super weight of"),
    ],
)
def test_bad_input_is_refused_before_any_work(folder, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert command(folder, "--window", 12, "--windows", 3, *words) == 1
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.tiny
def test_a_window_longer_than_the_models_context_is_refused(folder, tmp_path, capsys):
    words = ["--weights", WEIGHTS[0], "--window", 9999, "--windows", 1, "--store", tmp_path / "s.sqlite"]
    assert command(folder, *words) == 1
    assert "at most" in capsys.readouterr().err
