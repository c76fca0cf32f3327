"""Verdicts against planted truth: alone, together, experts, gains; models without any; what is told and kept."""

from __future__ import annotations

import json
import math

import families
import grounds
import pytest
import torch

from superweights.address import Address
from superweights.branch import Branch
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.discovery import Findings, Search, find
from superweights.discovery.hunt import Hunt
from superweights.discovery.proof import Bars
from superweights.discovery.protocol import blocks_of, doubt
from superweights.discovery.together import Together
from superweights.discovery.trials import Trial
from superweights.index.choice import recorded_weights
from superweights.quantization.underflow import lost
from superweights.record import MATTERS, Record, Score, to_json_line
from superweights.tables.found import parts
from superweights.tables.page import page_text
from superweights.verbs.find import found_record


def searched(family, ground, folder, search=None):
    families.save_tiny(family, folder, ground.model)
    with open_checkpoint(str(folder)) as checkpoint:
        return find(checkpoint, search, token_ids=ground.ids)


def verdicts_of(found):
    return {(c.parameter, c.address.index): c.verdict for c in found.candidates}


# --- planted --------------------------------------------------------------------------------------------------


@pytest.mark.tiny
@pytest.mark.parametrize(
    ("family", "count"), [("llama", 1), ("gpt2", 2), ("opt", 3), ("qwen3", 3), ("bloom", 2)]
)
def test_what_was_planted_together_is_joint_and_what_was_planted_alone_critical(family, count, tmp_path):
    ground = grounds.planted_together(family, 0, count)
    found = searched(family, ground, tmp_path)
    wanted = "critical" if count == 1 else "joint"
    assert {member: verdicts_of(found).get(member) for member in ground.members} == dict.fromkeys(
        ground.members, wanted
    )
    assert found.verdict == wanted
    if count > 1:
        (group,) = found.groups
        assert {Address.parse(member).index for member in group.members} == {i for _, i in ground.members}
        assert (group.kind, group.smallest) == ("column", True)
        assert group.effect.interval()[0] > math.log(2)
        assert all(w.adds.value > math.log(2) for w in found.super_weights if w.group == group.name)


@pytest.mark.tiny
def test_a_planted_gain_is_critical(tmp_path):
    ground = grounds.planted_gain("gemma3_text", 0)
    assert verdicts_of(searched("gemma3_text", ground, tmp_path))[ground.members[0]] == "critical"


@pytest.mark.tiny
def test_a_super_expert_is_found_with_the_weight_inside_it(tmp_path):
    ground = next(g for s in range(4) if (g := grounds.planted_expert("gpt_oss", s)) is not None)
    found = searched("gpt_oss", ground, tmp_path)
    (expert,) = [e for e in found.experts if (e.module, e.expert) == ground.expert]
    assert expert.verdict == "critical"
    assert expert.by_paper
    assert Address.parse(expert.inside).index == ground.members[0][1]
    assert expert.share == pytest.approx(1.0, abs=0.05)
    assert expert.forced >= 0.99 * expert.routed > 0
    assert Findings.from_json(json.loads(to_json_line(found.to_json()))).experts == found.experts


@pytest.mark.tiny
@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma2", "olmo2"])
def test_nothing_matters_in_a_random_model_that_reads_its_own_text(family, tmp_path):
    found = searched(family, grounds.null_model(family, 3, "plain"), tmp_path)
    assert found.verdict not in MATTERS
    assert not found.super_weights


# --- sequence and protocol ------------------------------------------------------------------------------------


@pytest.mark.unit
def test_each_pass_takes_as_many_windows_again_and_then_the_first_ones():
    assert list(blocks_of(32, Search(budget=5))) == [
        range(4), range(4, 8), range(8, 16), range(16, 32), range(4),
    ]  # fmt: skip
    assert list(blocks_of(6, Search(budget=3))) == [range(4), range(4, 6), range(4)]


@pytest.mark.unit
def test_a_set_is_made_smaller_until_no_part_of_it_is_critical():
    """Of four weights the first and third are critical together: the only truth this test knows."""
    names = [Address("t", (n,)) for n in range(4)]

    def cost(addresses):
        return 5.0 if {names[0], names[2]} <= set(addresses) else 0.0

    def seen(trial):
        edits = {edit.address for edit in trial.branch(range(3)).edits}
        trial.note(range(3), torch.full((3,), cost(edits)))

    alone = {name: Trial.without([name]) for name in names}
    group = Together("column", tuple((name,) for name in names), Trial.without(names))
    for trial in (*alone.values(), group.trial):
        seen(trial)
    for _ in range(5):
        for trial in group.proceed(alone, Bars()):
            seen(trial)
    assert group.smallest
    assert set(group.members) == {names[0], names[2]}


@pytest.mark.unit
def test_text_that_does_not_fit_the_model_is_doubted_and_then_refused():
    class Model:
        class config:  # noqa: N801
            @staticmethod
            def get_text_config():
                return families.tiny_config("llama")  # a vocabulary of 256: guessing costs 5.55

    assert doubt(Score("loss", 2.0, "nats/token", 8), Model, "a text") == ([], True)
    (note,), judged = doubt(Score("loss", 4.0, "nats/token", 8), Model, "a text")
    assert "--bos" in note
    assert judged
    (note,), judged = doubt(Score("loss", 5.4, "nats/token", 8), Model, "a text")
    assert "by chance" in note
    assert not judged


@pytest.mark.tiny
def test_ctrl_c_in_a_proving_pass_keeps_what_is_decided(tmp_path, monkeypatch):
    ground = grounds.planted_together("llama", 0, 1)
    ride, passes = Hunt.ride, []

    def interrupted(self, *arguments):
        passes.append(1)
        if len(passes) > 1:
            raise KeyboardInterrupt
        ride(self, *arguments)

    monkeypatch.setattr(Hunt, "ride", interrupted)
    found = searched("llama", ground, tmp_path)
    assert found.conditions["interrupted"]
    assert any("interrupted" in note for note in found.notes)
    assert verdicts_of(found)[ground.members[0]] in ("critical", "undecided")
    assert found.base_loss.n == 4


@pytest.mark.tiny
def test_more_spikes_of_a_kind_than_are_put_to_the_proof_are_said_aloud(tmp_path):
    ground = grounds.planted_together("llama", 0, 3)
    found = searched("llama", ground, tmp_path, Search(most=1))
    assert any("not put to the proof" in note for note in found.notes)


@pytest.mark.unit
def test_a_branch_of_a_trial_is_fresh_each_time():
    trial = Trial.without([Address("t", (0,))])
    assert trial.branch(range(2)) is not trial.branch(range(2))
    assert isinstance(trial.branch(range(2)), Branch)


# --- told and kept ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A folder with a planted triple, and the record that a search of it wrote."""
    folder = tmp_path_factory.mktemp("triple")
    ground = grounds.planted_together("opt", 0, 3)
    found = searched("opt", ground, folder)
    with open_checkpoint(str(folder)) as checkpoint:
        record = Record.of("find", checkpoint, findings=found)
    path = folder / "find.json"
    path.write_text(record.to_json())
    return folder, ground, found, path


@pytest.mark.tiny
def test_readers_of_a_record_keep_every_member_of_a_group(told):
    folder, ground, _, path = told
    with open_checkpoint(str(folder)) as checkpoint:
        kept = recorded_weights(checkpoint, path)
    assert {address.index for address in kept} == {index for _, index in ground.members}


@pytest.mark.tiny
def test_the_answer_comes_first_and_the_group_stands_together(told, capsys):
    found = told[2]
    print(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 super weights (3 joint): without ")
    assert "no single one is critical" in lines[0]
    assert any("3 weights together" in line for line in lines)
    story = page_text(parts(found_record(found), explain=found.super_weights[0].address))
    assert "trigger: at token" in story
    assert "of that it adds" in story.lower()


@pytest.mark.tiny
def test_the_story_of_a_weight_that_did_not_spike_is_refused(told, capsys):
    assert run(["find", str(told[0]), "--explain", "model.decoder.layers.0.fc1.weight[0, 0]"]) == 1
    assert "did not spike" in capsys.readouterr().err


# --- facts --------------------------------------------------------------------------------------------------------


@pytest.mark.unit
def test_one_large_weight_starves_the_scales_of_the_others():
    plain = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    assert lost(plain).blocks_zero == lost(plain).blocks_subnormal == 0.0
    spiked = plain.clone()
    spiked[3, 5] = 2e5
    found = lost(spiked)
    others = (32 * 4 - 1) / (32 * 4)  # all blocks but the one that holds it
    # scale of a block with largest weight ~2.5: 2.5/6 over 2e5/(6*448) is 0.0056, a subnormal of E4M3 (below 2^-6)
    assert found.blocks_zero + found.blocks_subnormal == pytest.approx(others)
    # and 2.24e-3 |w| rounds to 0 below 2^-10: |w| < 0.436, which a third of normal numbers are
    assert found.weights_zero == pytest.approx(math.erf(0.436 / math.sqrt(2)), abs=0.02)
    assert lost(torch.zeros(4, 8)).weights_zero == 0.0


@pytest.mark.tiny
def test_facts_are_one_document_that_its_schema_describes(capsys):
    jsonschema = pytest.importorskip("jsonschema")
    from superweights.findings.facts import (
        SCHEMA,
        Facts,
        MassiveLayer,
        SinkLayer,
        SiteRoom,
        Underflow,
        json_schema,
    )  # fmt: skip
    from superweights.record import plain

    facts = Facts(
        SCHEMA, {"bos": False}, (MassiveLayer(0, 3.0, 1.0, (5,), (0,), ("a",)),), (1,), (), (SinkLayer(0, 0.5, 1.0),),
        (0,), (SiteRoom("block_out", 0, 3.0, 21834.7),), (Underflow("t", 0.0, 0.1, 0.2),),
    )  # fmt: skip
    jsonschema.validate(plain(facts), json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**plain(facts), "born": "11"}, json_schema())
    assert run(["facts", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


@pytest.mark.real
def test_facts_of_the_embedded_model_name_its_channel_and_sink():
    from small import embedded_folder

    from superweights.subject import Reading
    from superweights.verbs.facts import facts

    embedded_folder()
    found = facts("embedded", Reading(window=16, windows=2)).findings
    assert 507 in found.massive[15].channels
    assert found.massive[15].positions[0] == 0
    assert 11 in found.born
    assert found.sink_positions[0] == 0
    assert min(site.fp16_headroom for site in found.sites) == pytest.approx(2.7, abs=0.3)
