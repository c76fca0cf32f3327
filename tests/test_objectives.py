"""Objectives: what is hidden, shifted, framed and pooled, against transformers' own losses and closed forms."""

from __future__ import annotations

import pytest
import torch
from families import save_tiny, token_ids
from reaching import inputs_for, save, tiny
from torch.nn import functional
from transformers import BertConfig, BertModel

from superweights.checkpoint import open_checkpoint
from superweights.discovery import find
from superweights.errors import SuperweightsError
from superweights.scoring import Variant, compare, loss_per_window, token_losses
from superweights.scoring.embeddings import moved
from superweights.stream import streaming
from superweights.subject import NextToken, objective_of
from superweights.subject.batch import UNSCORED, Batch
from superweights.subject.embedding import Embedding, distances, neighbours, pooling_of
from superweights.subject.given import given_batch, read_inputs
from superweights.subject.masked import Masked
from superweights.subject.objective import Frame
from superweights.subject.sequences import Seq2Seq

pytestmark = pytest.mark.tiny

FRAME = Frame((1,), (2,))


def opened(folder, **how):
    """The objective and the class that a folder is opened with."""
    with open_checkpoint(str(folder)) as checkpoint, streaming(checkpoint, resident=True, **how) as model:
        return objective_of(model), type(model).__name__


@pytest.mark.parametrize(
    ("kind", "model_type", "name"),
    [
        ("masked", "bert", "masked"),
        ("masked", "albert", "masked"),
        ("seq2seq", "t5", "seq2seq"),
        ("seq2seq", "whisper", "seq2seq"),
        ("image", "llava", "next-token"),
    ],
)
def test_the_class_that_a_checkpoint_names_says_what_it_is_read_for(tmp_path, kind, model_type, name):
    model = tiny(kind, model_type)
    save(model, tmp_path)
    objective, class_name = opened(tmp_path)
    assert objective.name == name
    assert class_name == type(model).__name__


def test_a_decoder_is_read_for_its_next_token_and_an_encoder_without_a_head_for_its_embedding(tmp_path):
    save_tiny("llama", tmp_path / "llama")
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    BertModel(BertConfig(**sizes, num_attention_heads=4)).save_pretrained(tmp_path / "bert")
    assert opened(tmp_path / "llama")[0] == NextToken()
    assert opened(tmp_path / "bert")[0].name == "embedding"


def test_an_objective_that_the_type_does_not_have_is_refused_with_its_own(tmp_path):
    save_tiny("llama", tmp_path)
    with pytest.raises(SuperweightsError, match="objective masked") as raised:
        opened(tmp_path, objective="masked")
    assert "next-token" in raised.value.hint
    with pytest.raises(SuperweightsError, match="no objective 'words'"):
        opened(tmp_path, objective="words")


def test_pictures_without_a_processor_are_refused_in_one_sentence(tmp_path):
    save(tiny("image", "llava"), tmp_path)
    with pytest.raises(SuperweightsError, match="has no processor"):
        opened(tmp_path, objective="image")


def test_fifteen_percent_are_hidden_never_a_special_token_and_the_same_wherever_a_window_stands():
    ids = token_ids(6, 40)
    masked = Masked(3, FRAME)
    batch = masked.batch(ids)
    labels, given = batch.labels, batch.arguments["input_ids"]
    assert labels is not None
    assert ((labels != UNSCORED).sum(1) == round(0.15 * 38)).all()
    assert (given[:, 0] == 1).all()
    assert (given[:, -1] == 2).all()
    assert (labels[:, [0, -1]] == UNSCORED).all()
    assert torch.equal(given == 3, labels != UNSCORED)
    assert torch.equal(masked.batch(ids[3:4]).arguments["input_ids"], given[3:4])
    other = Masked(3, FRAME, seed=1).batch(ids).arguments["input_ids"]
    assert not torch.equal(other, given)


def test_a_frame_that_stands_there_already_is_not_put_again():
    ids = torch.tensor([[1, 5, 6, 7]])
    assert FRAME.around(ids).tolist() == [[1, 5, 6, 2]]
    assert FRAME.around(torch.tensor([[5, 6, 7, 8]])).tolist() == [[1, 5, 6, 2]]
    with pytest.raises(SuperweightsError, match="no room"):
        FRAME.around(torch.tensor([[5, 6]]))


def test_the_masked_loss_is_transformers_own(tmp_path):
    model = tiny("masked", "bert")
    save(model, tmp_path)
    windows = token_ids(3, 20)
    with open_checkpoint(str(tmp_path)) as checkpoint, streaming(checkpoint, resident=False) as streamed:
        found = loss_per_window(streamed, windows)
        batch = objective_of(streamed).batch(windows)
    for row in range(3):
        one = batch.take(slice(row, row + 1))
        own = model(**one.arguments, labels=one.labels).loss
        assert found[row].item() == pytest.approx(own.item(), abs=1e-5)


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_the_loss_of_a_second_sequence_is_transformers_own(tmp_path, model_type):
    model = tiny("seq2seq", model_type, decoder_start_token_id=2)
    save(model, tmp_path)
    windows = token_ids(2, 10)
    with open_checkpoint(str(tmp_path)) as checkpoint, streaming(checkpoint, resident=False) as streamed:
        found = loss_per_window(streamed, windows)
    own = [model(input_ids=row[None], labels=row[None]).loss.item() for row in windows]
    assert found.tolist() == pytest.approx(own, abs=1e-5)


def test_spans_are_taken_out_and_asked_for_behind_their_sentinels():
    batch = Seq2Seq((0,), Frame((), (2,)), sentinels=(90, 91)).batch(torch.arange(10, 34)[None])
    source, target = batch.arguments["input_ids"][0].tolist(), batch.labels[0].tolist()
    assert target[-1] == source[-1] == 2
    assert [token for token in target if token >= 90] == [token for token in source if token >= 90] == [90]
    kept = [token for token in source if token < 90][:-1]
    filled = [token for token in target if token < 90][:-1]
    assert sorted(kept + filled) == list(range(10, 34))
    assert batch.arguments["decoder_input_ids"][0].tolist() == [0, *target[:-1]]


def test_an_embedding_is_the_mean_of_the_last_states_and_its_change_one_minus_cosine(tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = BertModel(BertConfig(**sizes, num_attention_heads=4)).eval()
    model.save_pretrained(tmp_path)
    windows = token_ids(5, 12) % 64
    name = "encoder.layer.1.output.dense.weight"
    with open_checkpoint(str(tmp_path)) as checkpoint, streaming(checkpoint, resident=True) as base:
        changed = {"original": base.get_parameter(name).data}

        def change():
            from contextlib import contextmanager

            @contextmanager
            def halved():
                base.get_parameter(name).data = changed["original"] * 0.5
                yield
                base.get_parameter(name).data = changed["original"]

            return halved()

        found = compare(base, Variant(base, change), windows)
    with torch.no_grad():
        one = model(windows).last_hidden_state.mean(1)
        model.get_parameter(name).mul_(0.5)
        other = model(windows).last_hidden_state.mean(1)
    apart = 1 - functional.cosine_similarity(one, other)
    assert found.loss.value == pytest.approx(apart.mean().item(), abs=1e-6)
    assert found.loss.unit == "1 - cosine"
    assert found.kl is None
    assert found.agreement.value == moved(one, other)[1].mean().item()


def test_distances_and_neighbours_have_their_closed_forms():
    one = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    other = torch.tensor([[0.0, 3.0], [0.0, -1.0]])
    assert distances(one, other).tolist() == pytest.approx([1.0, 2.0])
    assert distances(one, 5 * one).tolist() == [0.0, 0.0]
    assert neighbours(torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1.0]])).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("pooling", "wanted"), [("mean", 2.0), ("first", 1.0), ("last", 3.0), ("max", 3.0)])
def test_pooling_is_as_the_checkpoint_says(pooling, wanted):
    states = torch.tensor([[[1.0], [2.0], [3.0]]])
    assert Embedding(pooling).pool(states).item() == wanted
    key = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken", "max": "max_tokens"}[pooling]
    assert pooling_of(lambda file: {f"pooling_mode_{key}": True, "word_embedding_dimension": 1}) == pooling


def test_a_pooling_that_is_not_known_is_refused():
    with pytest.raises(SuperweightsError, match="weightedmean"):
        pooling_of(lambda file: {"pooling_mode_weightedmean_tokens": True})


def test_what_asks_for_every_token_is_refused_for_a_model_that_hides_some(tmp_path):
    save(tiny("masked", "bert"), tmp_path)
    with (
        open_checkpoint(str(tmp_path)) as checkpoint,
        streaming(checkpoint, resident=True) as model,
        pytest.raises(SuperweightsError, match="objective is masked"),
    ):
        token_losses(model, token_ids(2, 10))


def test_rows_are_taken_with_the_patches_that_belong_to_them():
    batch = Batch({"input_ids": torch.arange(6).view(3, 2), "pixel_values": torch.arange(12).view(12, 1)},
                  torch.zeros(3, 2, dtype=torch.long))  # fmt: skip
    taken = batch.take(torch.tensor([2, 0]))
    assert taken.arguments["input_ids"].tolist() == [[4, 5], [0, 1]]
    assert taken.arguments["pixel_values"].flatten().tolist() == [8, 9, 10, 11, 0, 1, 2, 3]


def test_the_mean_by_row_is_over_the_scored_ones_of_each_row():
    labels = torch.tensor([[1, UNSCORED, 2], [UNSCORED, 3, UNSCORED]])
    batch = Batch({"input_ids": labels}, labels)
    assert not batch.is_even
    assert batch.targets.tolist() == [1, 2, 3]
    assert batch.mean_by_row(torch.tensor([1.0, 3.0, 5.0])).tolist() == [2.0, 5.0]


def test_given_inputs_are_checked_before_the_model_runs(tmp_path):
    model = tiny("image", "llava")
    taken = {"input_ids": None, "pixel_values": None}
    ids = token_ids(4, 6)
    with pytest.raises(SuperweightsError, match="takes no argument sound"):
        given_batch({"sound": ids}, "next-token", taken, model.config)
    with pytest.raises(SuperweightsError, match="unequal rows"):
        given_batch({"input_ids": ids, "pixel_values": ids[:3]}, "next-token", taken, model.config)
    with pytest.raises(SuperweightsError, match="no labels"):
        given_batch({"input_ids": ids}, "masked", taken, model.config)
    with pytest.raises(SuperweightsError, match="no file"):
        read_inputs(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("words")
    with pytest.raises(SuperweightsError, match="no safetensors file"):
        read_inputs(tmp_path / "text.safetensors")


def test_places_of_pictures_are_no_words_to_predict():
    model = tiny("image", "llava")
    inputs = inputs_for("image", model)
    batch = given_batch(inputs, "next-token", dict.fromkeys(inputs), model.config)
    assert model.config.image_token_id not in batch.targets
    assert len(batch.targets) == 4 * 11


def test_a_picture_of_the_wrong_size_is_told_in_one_sentence(tmp_path):
    model = tiny("image", "llava")
    save(model, tmp_path)
    inputs = inputs_for("image", model)
    wrong = inputs | {"pixel_values": inputs["pixel_values"][..., :16]}
    with pytest.raises(SuperweightsError, match="cannot run the inputs"):
        find(str(tmp_path), token_ids=wrong)
