"""Models that see: measures and replaced attention by kind of token, on a tiny model with pictures in front."""

from __future__ import annotations

import pytest
import torch
from families import token_ids
from reaching import inputs_for, save, tiny

from superweights.checkpoint import open_checkpoint
from superweights.discovery import Search, find
from superweights.errors import SuperweightsError
from superweights.interpretability.attention_ablation.ablating import attention_replaced, dealt_among
from superweights.interpretability.information import update_of
from superweights.interpretability.kinds import kinds_of
from superweights.interpretability.questions import question_named
from superweights.interpretability.study import Study
from superweights.scoring import loss_per_window
from superweights.stream import streaming
from superweights.subject import announce, objective_of
from superweights.subject.batch import UNSCORED
from superweights.subject.pictured import Pictured, drawn_pictures, pictured
from superweights.subject.text import embedded_prose
from superweights.taps import Site, sites_of, tapping

pytestmark = pytest.mark.tiny
PLACES = 16


def seeing():
    """A tiny model that reads four pictures, each as four tokens, before every window."""
    model = tiny("image", "gemma3", **{"vision_config.image_size": 64, "mm_tokens_per_image": PLACES})
    inputs = inputs_for("image", model)
    made = {
        name: held for name, held in inputs.items() if name in ("pixel_values", "input_ids", "token_type_ids")
    }
    ids = made["input_ids"][:, : 1 + PLACES]
    fronts = tuple(
        {"input_ids": ids[row : row + 1], "pixel_values": made["pixel_values"][row : row + 1]}
        for row in range(4)
    )
    announce(model, objective=Pictured(fronts))
    return model


def test_each_token_is_of_one_kind():
    model = seeing()
    ids = Pictured(fronts_of(model)).batch(token_ids(2, 6)).arguments["input_ids"]
    kinds = kinds_of(ids, model.config)
    assert {name: int(mask[0].sum()) for name, mask in kinds.items()} == {
        "first": 1,
        "image": PLACES,
        "text": 6,
    }
    assert (sum(mask.int() for mask in kinds.values()) == 1).all()


def fronts_of(model):
    return objective_of(model).fronts


def test_windows_stand_behind_their_pictures_and_only_they_are_scored():
    model = seeing()
    windows = token_ids(5, 6)
    batch = Pictured(fronts_of(model)).batch(windows)
    assert batch.arguments["input_ids"].shape == (5, 1 + PLACES + 6)
    assert torch.equal(batch.arguments["pixel_values"][4], batch.arguments["pixel_values"][0])
    assert (batch.labels[:, : 1 + PLACES] == UNSCORED).all()
    assert torch.equal(batch.targets.view(5, 5), windows[:, 1:])


def test_information_is_measured_on_each_kinds_own_rows():
    model = seeing()
    study = Study(model, token_ids(2, 8))
    found = question_named("information").answer(study)
    assert {each.kind for each in found.kinds} == {"first", "image", "text"}
    held = {}
    layer = Site("block_in", 1), Site("mid", 1)
    with tapping(model, {site: (lambda h, site=site: held.__setitem__(site, h.clone())) for site in layer}):
        model(**Pictured(fronts_of(model)).batch(study.ids, whole=True).arguments)
    rows = slice(1, 1 + PLACES)
    own = [update_of(held[layer[0]][row, rows], held[layer[1]][row, rows]) for row in range(2)]
    mine = next(e for e in found.kinds if (e.layer, e.part, e.kind) == (1, "attention", "image"))
    assert mine.innovation == pytest.approx(sum(each.innovation for each in own) / 2)
    assert mine.tokens == PLACES


def test_the_published_means_stand_beside_ours_where_there_are_pictures():
    """The paper's four numbers, arXiv 2605.05668, in the sheet that a person sees."""
    found = question_named("information").answer(Study(seeing(), token_ids(2, 8)))
    sheet = found.sheets()[-1]
    assert [(row[0], row[2], row[4]) for row in sheet.rows] == [
        ("attention", 0.06, 0.61),
        ("mlp", 0.21, 0.02),
    ]
    assert sheet.rows[0][1] == found.mean("attention", "rid")


def test_text_alone_has_no_kinds():
    found = question_named("information").answer(Study(tiny("image", "gemma3"), token_ids(2, 8)))
    assert found.kinds == ()
    assert len(found.sheets()) == 1


def test_the_weight_on_some_keys_is_dealt_out_among_them_and_the_rest_stays():
    weights = torch.tensor([[[[1.0, 0, 0, 0], [0.2, 0.8, 0, 0], [0.1, 0.2, 0.7, 0], [0.1, 0.2, 0.3, 0.4]]]])
    allowed = torch.ones(4, 4).tril().bool()
    keys = torch.tensor([False, True, True, False])
    new = dealt_among(weights, allowed.expand(1, 1, 4, 4), keys, "uniform", torch.Generator())
    wanted = [[1.0, 0, 0, 0], [0.2, 0.8, 0, 0], [0.1, 0.45, 0.45, 0], [0.1, 0.25, 0.25, 0.4]]
    assert torch.allclose(new[0, 0], torch.tensor(wanted))
    with pytest.raises(SuperweightsError, match="among some keys"):
        dealt_among(weights, allowed, keys, "sink", torch.Generator())


def test_only_the_queries_of_a_kind_are_replaced():
    model = seeing()
    batch = Pictured(fronts_of(model)).batch(token_ids(2, 6), whole=True)
    kinds = kinds_of(batch.arguments["input_ids"], model.config)
    seen = {}
    site = Site("head_out", 2)
    tap = {site: lambda out: seen.setdefault("out", []).append(out.clone())}
    with tapping(model, tap):
        model(**batch.arguments)
    with attention_replaced(model, "uniform", [2], queries=kinds["text"][0]), tapping(model, tap):
        model(**batch.arguments)
    before, after = seen["out"]
    changed = (before - after).abs().amax((0, 2, 3)) > 1e-6
    assert torch.equal(changed[1:], kinds["text"][0][1:])


def test_replacement_has_rows_for_each_kind_of_token():
    found = question_named("replacement").answer(Study(seeing(), token_ids(4, 8)))
    assert [each.mode for each in found.kinds] == [
        f"uniform {word} {kind}" for kind in ("first", "image", "text") for word in ("on", "for")
    ]


def test_a_vision_tower_is_asked_where_its_attention_goes():
    answer = question_named("sinks").answer(Study(seeing(), token_ids(2, 8), tower="vision"))
    assert len(answer.layers) == 3


def test_test_pictures_are_the_same_each_time_and_unlike():
    pytest.importorskip("PIL")
    one, two = drawn_pictures(16), drawn_pictures(16)
    assert [p.tobytes() for p in one] == [p.tobytes() for p in two]
    assert len({p.tobytes() for p in one}) == 4


def test_a_processor_that_makes_no_place_for_a_picture_is_told():
    class Deaf:
        image_token = "<image>"

        def __call__(self, text, images, return_tensors):
            raise ValueError("pictures of 16 pixels are too small")

    pytest.importorskip("PIL")
    with pytest.raises(SuperweightsError, match="too small"):
        pictured(Deaf(), "a model")


def test_towers_have_their_own_sites():
    model = seeing()
    assert sites_of(model).blocks[0].startswith("model.language_model")
    assert sites_of(model, "vision").blocks[0].startswith("model.vision_tower")


def with_processor(folder):
    """A tiny LLaVA in `folder` with a processor of its own: pictures of 32 pixels as 16 tokens, words as they stand."""
    pytest.importorskip("PIL")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    model = tiny("image", "llava", **{"vision_config.patch_size": 8})
    words = dict.fromkeys(["<unk>", "<s>", "</s>", *embedded_prose().text.split()])
    known = {word: number for number, word in enumerate(list(words)[:250])} | {
        "<image>": model.config.image_token_id
    }
    split = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "additional_special_tokens": ["<image>"],
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=split, **marks)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    how = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    save(model, folder)
    LlavaProcessor(image_processor=pictures, tokenizer=tokenizer, **how).save_pretrained(folder)
    return model


def test_pictures_go_through_the_models_own_processor_and_a_vision_tower_is_searched(tmp_path):
    with_processor(tmp_path)
    found = find(str(tmp_path), Search.quick(budget=1, tower="vision"), objective="image")
    assert found.conditions["objective"] == "image"
    assert {layer.tower for layer in found.layers} == {"vision_tower", "language_model"}
    assert found.base_loss.unit == "nats/token"


def test_with_pictures_the_score_is_of_the_text_alone(tmp_path):
    model = with_processor(tmp_path)
    with open_checkpoint(str(tmp_path)) as checkpoint, streaming(checkpoint, objective="image") as streamed:
        ids = token_ids(3, 10)
        found = loss_per_window(streamed, ids)
        batch = objective_of(streamed).batch(ids, whole=True)
    assert int((batch.arguments["input_ids"][0] == model.config.image_token_id).sum()) == 16
    assert len(batch.targets) == 3 * 9
    for row in range(3):
        one = batch.take(slice(row, row + 1))
        logits = model(**one.arguments).logits[0, :-1]
        own = torch.nn.functional.cross_entropy(logits, one.labels[0, :-1], ignore_index=UNSCORED)
        assert found[row].item() == pytest.approx(own.item(), abs=1e-4)
