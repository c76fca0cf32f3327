"""Towers: which there are, that edits in each give what the edited model gives, and that planted weights are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from planting import plant
from reaching import inputs_for, places_to_plant, save, tiny
from safetensors.torch import save_file

from superweights.address import Address
from superweights.branch import Branch, branching
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.discovery import Search, find
from superweights.editing import Edit
from superweights.errors import SuperweightsError
from superweights.interpretability.questions import question_named
from superweights.interpretability.study import Study
from superweights.record import Record
from superweights.stream import streaming
from superweights.subject import Batch
from superweights.subject.blocks import blocks_in, find_blocks, tower_named, towers_of
from superweights.subject.facts import predicted
from superweights.taps import sites_of

pytestmark = pytest.mark.tiny


def given(inputs):
    return {name: held for name, held in inputs.items() if name != "labels"}


@pytest.mark.parametrize(
    ("kind", "model_type", "towers"),
    [
        ("masked", "bert", [None]),
        ("seq2seq", "t5", ["encoder", "decoder"]),
        ("image", "llava", ["vision_tower", "language_model"]),
    ],
)
def test_towers_are_named_as_the_model_names_them(kind, model_type, towers):
    blocks = find_blocks(tiny(kind, model_type))
    assert list(dict.fromkeys(towers_of(blocks).values())) == towers
    assert len(blocks) == 3 * len(towers)


def test_an_ordinary_gain_inside_a_post_norm_block_is_put_to_the_proof(tmp_path):
    """What spikes before the attention's norm is held up by a gain of 1, which is no outlier of its norm."""
    model, channel = tiny("masked", "bert"), 5
    gain = Address("bert.encoder.layer.1.attention.output.LayerNorm.weight", (channel,))
    for name in ("plain", "planted"):
        save(model, tmp_path / name)
        found = find(str(tmp_path / name), token_ids=inputs_for("masked", model), objective="masked")
        assert (gain in {c.address for c in found.candidates if c.kind == "gain"}) == (name == "planted")
        with torch.no_grad():
            model.get_submodule("bert.encoder.layer.1.attention.output.dense").bias[channel] = 1000.0


def test_a_block_whose_forward_is_called_by_itself_is_read_too(tmp_path):
    """SqueezeBERT's encoder does not call its layers but their `forward`."""
    model = tiny("masked", "squeezebert")
    inputs = given(inputs_for("masked", model))
    save(model, tmp_path)
    with (
        open_checkpoint(str(tmp_path)) as checkpoint,
        streaming(checkpoint, resident=False, objective="masked") as streamed,
    ):
        assert torch.equal(streamed(**inputs).logits, model(**inputs).logits)
        assert all(p.is_meta for name, p in streamed.named_parameters() if ".layers." in name)


def test_a_part_of_a_name_is_enough_and_another_word_is_refused():
    model = tiny("image", "llava")
    assert set(blocks_in(model, "vision")) == {f"model.vision_tower.encoder.layers.{i}" for i in range(3)}
    with pytest.raises(SuperweightsError, match="no tower 'audio'") as raised:
        tower_named(find_blocks(model), "audio", "Llava")
    assert "vision_tower, language_model" in raised.value.hint


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [
        ("masked", "albert"),
        ("seq2seq", "t5"),
        ("seq2seq", "whisper"),
        ("image", "llava"),
        ("image", "qwen2_5_vl"),
    ],
)
def test_a_branch_in_any_tower_is_the_edited_model_bit_for_bit(kind, model_type):
    model = tiny(kind, model_type)
    inputs = given(inputs_for(kind, model))
    for parameter, _ in places_to_plant(model).values():
        branch = Branch((Edit(Address(parameter, (1, 2)), value=3.0),))
        with branching(model, [branch]) as run:
            run.pass_over(Batch(inputs, torch.zeros(4, 12, dtype=torch.long)))
            found = run.logits(branch, slice(0, 4)), run.logits(None, slice(0, 4))
        with torch.no_grad():
            base = predicted(model(**inputs))
            held = model.get_parameter(parameter)
            before = held[1, 2].item()
            held[1, 2] = 3.0
            edited = predicted(model(**inputs))
            held[1, 2] = before
        assert torch.equal(found[0], edited)
        assert torch.equal(found[1], base)
        assert not torch.equal(edited, base)


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [("masked", "roberta"), ("seq2seq", "bart"), ("image", "gemma3"), ("image", "qwen2_5_vl")],
)
def test_a_planted_weight_is_found_in_each_tower(tmp_path, kind, model_type):
    places = places_to_plant(tiny(kind, model_type))
    assert places
    for stack, (parameter, width) in places.items():
        model = tiny(kind, model_type)
        inputs = inputs_for(kind, model)
        planted = plant(model, inputs, parameter=parameter, width=width)
        save(model, tmp_path / stack)
        objective = "next-token" if kind == "image" else kind
        found = find(str(tmp_path / stack), token_ids=inputs, objective=objective)
        weight = next(c for c in found.candidates if c.parameter == parameter and c.kind == "weight")
        assert weight.address.index == planted.index
        tower = weight.tower
        assert tower is None or tower in stack
        assert weight.layer == 1
        others = {towers_of(find_blocks(model))[path] for path in find_blocks(model)} - {tower}
        for other in others - {None}:
            elsewhere = find(
                str(tmp_path / stack), Search(tower=other), token_ids=inputs, objective=objective
            )
            assert weight.address not in {c.address for c in elsewhere.candidates}


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [("masked", "modernbert"), ("masked", "deberta-v2"), ("seq2seq", "marian"), ("image", "smolvlm")],
)
def test_streamed_predictions_equal_the_whole_models(tmp_path, kind, model_type):
    model = tiny(kind, model_type)
    save(model, tmp_path)
    inputs = given(inputs_for(kind, model))
    how = {"objective": "next-token" if kind == "image" else kind, "resident": False}
    with (
        open_checkpoint(str(tmp_path)) as checkpoint,
        streaming(checkpoint, **how) as streamed,
        torch.no_grad(),
    ):
        assert torch.equal(predicted(streamed(**inputs)), predicted(model(**inputs)))


def test_a_shared_layer_is_one_tensor_with_several_uses_and_the_finding_says_so(tmp_path):
    model = tiny("masked", "albert")
    inputs = inputs_for("masked", model)
    save(model, tmp_path)
    found = find(str(tmp_path), token_ids=inputs)
    assert len(found.layers) == 3
    assert any("runs 3 times in a pass" in note for note in found.notes)
    assert sites_of(model).blocks == ("albert.encoder.albert_layer_groups.0",) * 3


def test_an_encoder_and_a_tower_can_be_asked_where_attention_goes(tmp_path):
    save(tiny("masked", "bert"), tmp_path / "bert")
    save(tiny("seq2seq", "t5"), tmp_path / "t5")
    for folder, tower in (("bert", None), ("t5", "encoder")):
        answer = asked(tmp_path / folder, "sinks", tower)
        assert len(answer.layers) == 3
        assert 0 <= answer.other_position <= 16


def test_a_question_about_decoders_is_refused_for_an_encoder(tmp_path):
    save(tiny("masked", "bert"), tmp_path)
    with pytest.raises(SuperweightsError, match="no meaning for a model of the objective masked"):
        asked(tmp_path, "lens")


def test_a_vision_tower_that_text_does_not_reach_is_refused(tmp_path):
    save(tiny("image", "llava"), tmp_path)
    with pytest.raises(SuperweightsError, match="does not run on text alone"):
        asked(tmp_path, "massive", "vision")


def asked(folder: Path, question: str, tower: str | None = None):
    from families import token_ids

    with open_checkpoint(str(folder)) as checkpoint, streaming(checkpoint, resident=True) as model:
        return question_named(question).answer(Study(model, token_ids(2, 16), tower=tower))


def test_an_encoder_is_searched_by_the_command_line(tmp_path, capsys):
    save(tiny("masked", "bert"), tmp_path / "bert")
    assert run(["find", str(tmp_path / "bert"), "--out", str(tmp_path / "found.json")]) == 0
    findings = Record.read(tmp_path / "found.json").findings
    assert findings["conditions"]["objective"] == "masked"
    assert len(findings["layers"]) == 3


def test_given_inputs_are_searched_by_the_command_line(tmp_path, capsys):
    model = tiny("image", "llava")
    inputs = inputs_for("image", model)
    plant(model, inputs, parameter=places_to_plant(model)["model.vision_tower.encoder.layers"][0])
    save(model, tmp_path / "llava")
    save_file(inputs, tmp_path / "inputs.safetensors")
    asked = [
        "find",
        str(tmp_path / "llava"),
        "--inputs",
        str(tmp_path / "inputs.safetensors"),
        "--tower",
        "vision",
    ]
    assert run([*asked, "--json"]) == 0
    assert "vision_tower" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--objective", "words"], "no objective 'words'"),
        (["--objective", "embedding", "--greedy", "4"], "whose objective is embedding"),
        (["--objective", "image"], "cannot be read for the objective image"),
        (["--tower", "audio"], "no tower 'audio'"),
        (["--inputs", "absent.safetensors"], "no file absent.safetensors"),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_sentence(tmp_path, capsys, options, sentence):
    save(tiny("masked", "bert"), tmp_path)
    assert run(["find", str(tmp_path), *options]) == 1
    told = capsys.readouterr().err
    assert sentence in " ".join(told.split())
    assert "hint:" in told
    assert "Traceback" not in told
