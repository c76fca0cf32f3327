"""Last words, the token shift and continuations: against plain loops over whole logits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from small import embedded_model, embedded_tokenizer, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import GPT2Config, LlamaConfig, PreTrainedTokenizerFast

import superweights.scoring.predictions as head
from superweights.address import Address
from superweights.editing import Edit, edited
from superweights.errors import SuperweightsError
from superweights.scoring import (
    STOP_WORDS,
    Variant,
    continue_beside,
    loss_per_window,
    match_damage,
    predict_last_words,
    token_shift,
)
from superweights.subject.text import encode

WORDS = ["the", "of", ".", ","] + [f"w{i}" for i in range(45)]
STOPS = [0, 1, 2, 3, 49]
LAMBADA = Path(__file__).parent.parent.parent / "shared" / "data" / "lambada_test.jsonl"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*WORDS, "?"])}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?", bos_token="the")


@pytest.fixture
def model() -> nn.Module:
    """Sharp enough that probabilities differ between tokens."""
    made = tiny(
        LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        )
    )
    made.lm_head.weight.data *= 40
    return made


@pytest.fixture
def broken(model) -> Variant:
    edit = Edit(Address("model.layers.0.mlp.down_proj.weight", (3, 5)), value=60)
    return Variant(model, lambda: edited(model, edit, verify=False))


@pytest.fixture
def texts() -> list[str]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (30,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(49, (n,), generator=generator)) for n in lengths]


@torch.no_grad()
def alone(model: nn.Module, ids: list[int]) -> torch.Tensor:
    """Log-probabilities after every token of one unpadded row."""
    return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


@pytest.mark.tiny
@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_last_words_equal_a_plain_loop_without_padding(model, tokenizer, texts, piece, monkeypatch):
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * 50 * piece)
    for text in texts[:15]:  # half of them end in what the model would say
        ids = encode(tokenizer, text)
        ids[-1] = int(alone(model, ids[:-1])[-1].argmax())
        texts[texts.index(text)] = " ".join(tokenizer.convert_ids_to_tokens(ids))
    found = predict_last_words(model, tokenizer, texts, batch_size=4)
    wanted = []
    for text in texts:
        ids = encode(tokenizer, text)
        after = alone(model, ids[:-1])[-1]
        wanted.append((int(after.argmax()) == ids[-1], -after[ids[-1]].item()))
    assert found.correct == tuple(hit for hit, _ in wanted)
    assert 15 <= sum(found.correct) < 30
    assert found.nats == pytest.approx([nats for _, nats in wanted], rel=1e-4, abs=1e-5)
    assert found.accuracy.value == sum(found.correct) / 30
    assert found.perplexity.value == pytest.approx(math.exp(sum(found.nats) / 30))


@pytest.mark.tiny
def test_every_token_of_a_last_word_must_be_the_first_choice(model):
    letters = {ch: i for i, ch in enumerate("abcdefgh ")}
    inner = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    text = "abc def"
    ids = encode(tokenizer, text)
    assert len(ids) == 7
    log_p = alone(model, ids[:-1])
    cost = -sum(log_p[i - 1, ids[i]].item() for i in (3, 4, 5, 6))
    found = predict_last_words(model, tokenizer, [text])
    assert found.nats == pytest.approx([cost], rel=1e-4)
    model.lm_head.weight.data.zero_()  # token 0 is always first: " " is not, so the word is missed
    assert predict_last_words(model, tokenizer, ["abc aaa"]).correct == (False,)


@pytest.mark.tiny
def test_a_text_beyond_the_context_loses_its_beginning(tokenizer):
    model = tiny(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    text = " ".join(WORDS[:20])
    ids = encode(tokenizer, text)
    cost = -alone(model, ids[-9:-1])[-1, ids[-1]].item()
    assert predict_last_words(model, tokenizer, [text]).nats == pytest.approx([cost], rel=1e-4)


@pytest.mark.tiny
def test_a_beginning_token_is_put_first_where_asked(model, tokenizer):
    text = "w1 w2 w3"
    ids = [tokenizer.bos_token_id, *encode(tokenizer, text)]
    cost = -alone(model, ids[:-1])[-1, ids[-1]].item()
    assert predict_last_words(model, tokenizer, [text], bos=True).nats == pytest.approx([cost], rel=1e-4)


@pytest.mark.tiny
@pytest.mark.parametrize("texts", [[], ["word"], [""]])
def test_texts_without_a_last_word_are_refused(model, tokenizer, texts):
    with pytest.raises(SuperweightsError):
        predict_last_words(model, tokenizer, texts)


@pytest.mark.tiny
@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_the_token_shift_equals_a_plain_average_in_float64(
    model, broken, tokenizer, texts, piece, monkeypatch
):
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * 50 * piece)
    prompts = [encode(tokenizer, text) for text in texts]
    found = token_shift(model, broken, tokenizer, prompts, top=50, batch_size=7)
    p = torch.stack([alone(model, row)[-1] for row in prompts])
    with broken.change():
        q = torch.stack([alone(model, row)[-1] for row in prompts])
    rise = (q.exp() - p.exp()).mean(0)
    seen = {change.token: change for change in found.leading}
    assert len(seen) == 50
    for token, change in seen.items():
        assert change.text == tokenizer.decode([token])
        assert change.base == pytest.approx(p[:, token].exp().mean().item(), rel=1e-4)
        assert change.other == pytest.approx(q[:, token].exp().mean().item(), rel=1e-4)
        assert change.change.value == pytest.approx(rise[token].item(), abs=1e-6)
        assert change.ratio_interval[0] <= change.ratio <= change.ratio_interval[1]
    assert [change.token for change in found.gained] == [
        t for t in rise.argsort(descending=True) if rise[t] > 0
    ]
    assert [change.token for change in found.lost] == [t for t in rise.argsort() if rise[t] < 0]
    ratios = [change.ratio for change in found.gained_ratio]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] > 1 > max(change.ratio for change in found.lost_ratio)
    assert found.kl.value == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    assert found.entropy_base.value == pytest.approx(-(p.exp() * p).sum(-1).mean().item(), rel=1e-5)
    assert found.entropy_other.value == pytest.approx(-(q.exp() * q).sum(-1).mean().item(), rel=1e-5)
    assert found.stop_words_base.value == pytest.approx(p[:, STOPS].exp().sum(-1).mean().item(), rel=1e-4)
    assert found.stop_words_other.value == pytest.approx(q[:, STOPS].exp().sum(-1).mean().item(), rel=1e-4)


@pytest.mark.tiny
def test_an_unchanged_model_shifts_nothing(model, tokenizer, texts):
    found = token_shift(model, model, tokenizer, [encode(tokenizer, text) for text in texts])
    assert found.gained == found.lost == found.gained_ratio == found.lost_ratio == ()
    assert found.kl.value == found.stop_words_change.value == 0
    assert all(change.ratio == 1 for change in found.leading)


@pytest.mark.tiny
@pytest.mark.parametrize("prompts", [[], [[1, 2], []]])
def test_empty_prompts_are_refused(model, tokenizer, prompts):
    with pytest.raises(SuperweightsError, match="empty"):
        token_shift(model, model, tokenizer, prompts)


@pytest.mark.unit
def test_the_declared_stop_words_are_single_lower_case_words():
    assert all(word == word.lower().strip() and word for word in STOP_WORDS)
    assert {"the", "and", ".", ","} <= STOP_WORDS


@pytest.mark.tiny
def test_greedy_continuations_are_those_of_repeated_first_choices(model, broken, tokenizer):
    prompt = "w1 w2 w3"
    (found,) = continue_beside(model, broken, tokenizer, [prompt], new_tokens=6)
    for variant, text in ((Variant(model), found.base), (broken, found.other)):
        ids = encode(tokenizer, prompt)
        with variant.change():
            for _ in range(6):
                ids.append(int(alone(model, ids)[-1].argmax()))
        assert text == tokenizer.decode(ids[3:])
    assert found.base != found.other


@pytest.mark.tiny
def test_sampled_continuations_repeat_with_their_seed_and_leave_the_random_state_alone(model, tokenizer):
    def sample(seed: int) -> str:
        (found,) = continue_beside(
            model, model, tokenizer, ["w1 w2"], new_tokens=20, temperature=2.0, seed=seed
        )
        assert found.base == found.other, "one model, one seed"
        return found.base

    state = torch.random.get_rng_state()
    assert sample(1) == sample(1) != sample(2)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.tiny
@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"temperature": math.nan}, {"new_tokens": 0}])
def test_impossible_sampling_is_refused(model, tokenizer, wrong):
    with pytest.raises(SuperweightsError, match="temperature"):
        continue_beside(model, model, tokenizer, ["w1"], **wrong)


@pytest.mark.tiny
def test_a_control_is_brought_to_the_same_damage(model, tokenizer, texts):
    ids = torch.tensor([encode(tokenizer, text)[:3] for text in texts])

    def control(strength: float) -> Variant:
        edits = [Edit(Address("model.norm.weight", (i,)), factor=1 - strength) for i in range(16)]
        return Variant(model, lambda: edited(model, edits))

    low, high = (loss_per_window(v, ids).mean().item() for v in (control(1.0), Variant(model)))
    target = (low + high) / 2  # this model is untrained: taking its output away makes the loss smaller
    ours = loss_per_window(control(0.5), ids).mean().item()
    assert low < target < high
    found = match_damage(lambda s: control(1 - s), ids, target, tolerance=0.01)
    assert found.loss == pytest.approx(target, abs=0.01)
    assert loss_per_window(found.variant, ids).mean().item() == pytest.approx(found.loss)
    assert 0 < found.strength < 1
    assert ours != pytest.approx(found.loss, abs=1e-6)
    with pytest.raises(SuperweightsError, match="No strength"):
        match_damage(lambda s: control(1 - s), ids, high + 5)


@pytest.mark.real
@pytest.mark.skipif(not LAMBADA.exists(), reason="needs ../shared/data/lambada_test.jsonl")
def test_lambada_gives_the_figures_of_lm_evaluation_harness():
    """lm-eval 0.4.13's `lambada_openai` gives accuracy 0.31667 and perplexity 56.92464 on the first 60 passages,
    as we do; here the first four, against a plain loop."""
    model, tokenizer = embedded_model(), embedded_tokenizer()
    with LAMBADA.open() as lines:
        texts = [json.loads(next(lines))["text"] for _ in range(4)]
    found = predict_last_words(model, tokenizer, texts, batch_size=4)
    for text, hit, nats in zip(texts, found.correct, found.nats, strict=True):
        context, _, word = text.rpartition(" ")
        start, whole = encode(tokenizer, context), encode(tokenizer, f"{context} {word}")
        log_p, tokens = alone(model, whole[:-1])[len(start) - 1 :], whole[len(start) :]
        cost = -sum(row[token].item() for row, token in zip(log_p, tokens, strict=True))
        assert nats == pytest.approx(cost, rel=1e-4)
        assert hit == all(int(row.argmax()) == token for row, token in zip(log_p, tokens, strict=True))
