"""Large Concept Models as folders that open again, sentence vectors as text with its controls, and the two Quants."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from transformers import AutoModel

import superweights  # noqa: F401 (teaches transformers our model types)
from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.alphabet import BOS, EOS, VOCABULARY, encode
from superweights.lab.concepts.coherence import mutual_information
from superweights.lab.concepts.config import KINDS, ConceptConfig
from superweights.lab.concepts.decoder import ConceptDecoder, rows_of
from superweights.lab.concepts.decoding import (
    CONTROLS,
    MEAN,
    NEAREST,
    NONE,
    OTHERS,
    OWN,
    DecoderSettings,
    bits_per_byte,
    controls,
    decoder_run,
    trained,
)
from superweights.lab.concepts.documents import Documents
from superweights.lab.concepts.metrics import bleu
from superweights.lab.concepts.models import OneTowerLcm
from superweights.lab.concepts.noise import Guidance
from superweights.lab.concepts.quantized import QuantLcm, ResidualQuantizer
from superweights.lab.concepts.saved import ConceptModel
from superweights.progress import silent

pytestmark = pytest.mark.tiny
DECODER = {"width": 16, "layers": 1}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(kind: str, **more) -> ConceptModel:
    torch.manual_seed(0)
    model = AutoModel.from_config(
        ConceptConfig(kind, 6, 16, 1, 1, longest=12, books=2, units=8, encoder="made-up", **more)
    )
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adaln" in name:  # begun at zero: nothing would depend on anything
                nn.init.normal_(parameter, std=0.2)
    return model.fit_scale(3 * drawn(80, 6) + 1).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_concept_model_opens_again_and_says_the_same_to_the_bit(kind, tmp_path):
    model = built(kind, decoder=DECODER, schedule={"kind": "sigmoid", "length": 20})
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert type(again) is ConceptModel
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    documents, lengths, noise = drawn(3, 5, 6), torch.tensor([2, 5, 3]), drawn(3, 6, seed=4)
    found = [m.next_vectors(documents, lengths, Guidance(4), noise) for m in (model, again)]
    assert torch.equal(*found)
    assert torch.isfinite(found[0]).all()
    assert model.write(documents[:, 0], most=5) == again.write(documents[:, 0], most=5)
    torch.manual_seed(3)
    loss = float(model(documents).loss.detach())
    torch.manual_seed(3)
    assert float(again(documents).loss.detach()) == loss


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_alone_is_continued_as_among_others(kind):
    model, documents, lengths, noise = built(kind), drawn(3, 5, 6), torch.tensor([2, 5, 3]), drawn(3, 6)
    together = model.next_vectors(documents, lengths, Guidance(4, scale=2.0), noise)
    for row, n in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone = model.next_vectors(documents[one, :n], lengths[one], Guidance(4, scale=2.0), noise[one])
        assert torch.allclose(alone[0], together[row], atol=1e-4)


def test_a_decoder_without_its_encoder_is_refused_as_config_and_as_folder(tmp_path):
    with pytest.raises(SuperweightsError, match=r"^A decoder without its encoder has no vectors"):
        ConceptConfig(decoder=DECODER)
    built("base", decoder=DECODER).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["encoder"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SuperweightsError, match=r"^A decoder without its encoder has no vectors"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: ConceptConfig("three_tower"), "no concept model of the kind 'three_tower'"),
        (lambda: ConceptConfig(width=30), "30 is not divided by 4 heads"),
        (lambda: built("base").write(drawn(1, 6)), "has no decoder"),
        (lambda: rows_of(["a", ""]), "empty sentence has no bytes"),
        (lambda: mutual_information(lambda ids: ids, lambda text: [1], [["one"]]), "No sentence has another"),
    ],
)
def test_what_makes_no_text_is_refused(wrong, said):
    with pytest.raises(SuperweightsError, match=said):
        wrong()


def test_one_tower_sampling_is_its_denoiser_at_the_place_that_comes_next():
    torch.manual_seed(0)
    model, documents, noise = OneTowerLcm(6, 32, 1, 8), drawn(1, 3, 6), drawn(1, 6, seed=1)
    found = model.sample_next(documents, torch.tensor([3]), Guidance(1, sigma=1.0), noise)
    noisy = torch.cat([drawn(1, 3, 6, seed=9), noise[:, None]], 1)
    clean = torch.cat([documents, drawn(1, 1, 6, seed=8)], 1)
    expected = model.denoise(noisy, torch.full((1, 4), 99), clean)[:, 3]
    assert torch.allclose(found, expected, atol=1e-6)  # whatever stands at the other noisy places


class Knowing(QuantLcm):
    """Says what is left of a vector that it knows, or likes the right unit most."""

    answer: torch.Tensor

    def _said(self, partial, k, context, mask):
        left = self.answer[:, None] - partial
        return left if self.continuous else -torch.cdist(left[:, 0], self.quantizer.books[k])[:, None]


@pytest.mark.parametrize("continuous", [True, False])
def test_a_quant_that_knows_the_answer_gives_its_codes(continuous):
    answer = drawn(40, 6)
    model = Knowing(ResidualQuantizer.fitted(answer, 3, 8), 16, 1, 1, continuous=continuous)
    model.answer = answer
    found = model.sample_next(drawn(40, 2, 6), torch.full((40,), 2))
    quantizer = model.quantizer
    assert torch.allclose(found, quantizer.decode(quantizer.encode(answer)), atol=1e-6)


def test_the_continuous_quant_draws_units_by_their_distance():
    """p(c) ~ exp(-beta |c - r|²), counted over twenty thousand draws."""
    books = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])
    model, n, beta = Knowing(ResidualQuantizer(books), 16, 1, 1, continuous=True), 20_000, 0.7
    model.answer = torch.tensor([[0.6, 0.3]]).expand(n, 2)
    generator = torch.Generator().manual_seed(1)
    found = model.sample_next(torch.zeros(n, 1, 2), torch.ones(n).long(), beta, generator)
    shares = [float((found == centroid).all(1).float().mean()) for centroid in books[0]]
    weights = [math.exp(-beta * d) for d in (0.45, 0.16 + 0.09, 0.36 + 1.7**2)]
    assert shares == pytest.approx([w / sum(weights) for w in weights], abs=0.01)


def test_the_continuous_quant_learns_what_is_left_over():
    torch.manual_seed(0)
    x = drawn(64, 1, 8).repeat(1, 3, 1)  # each document says one thing three times
    quantizer = ResidualQuantizer.fitted(x.flatten(0, 1), 2, 8)
    model = QuantLcm(quantizer, 32, 1, 2, continuous=True)
    nn.init.zeros_(model.towers.post.weight)
    nn.init.zeros_(model.towers.post.bias)
    left = x[:, :, None] - quantizer.partial(quantizer.encode(x))[..., :2, :]
    assert float(model.loss(x).detach()) == pytest.approx(float(left.square().sum(-1).mean()), rel=1e-5)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = float(model.loss(x).detach())
    for _ in range(80):
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.7 * first


def words(text: str) -> list[int]:
    return [0] if text == "\n" else [int(word) for word in text.split()]


def test_mutual_information_of_a_model_that_sees_one_token_is_nothing():
    """Both times the same newline stands in front of the sentence."""
    table = drawn(5, 5)
    found = mutual_information(lambda ids: table[ids], words, [["1 2", "3", "4 4 1"], ["2 2", "1"]])
    assert found.nats_per_token == pytest.approx(0.0, abs=1e-6)
    assert found.tokens == 1 + 3 + 1


def test_mutual_information_of_a_model_that_repeats_is_its_gain():
    """Ten words, each likelier by one nat for having been said before: by hand, with the whole distribution."""

    def repeats(ids):
        said = nn.functional.one_hot(ids, 10).cumsum(1) > 0
        return said.float()

    def log_p(word, before):
        seen = {0, *before}
        return float(word in seen) - math.log(math.e * len(seen) + 10 - len(seen))

    expected = (log_p(1, [1, 2]) - log_p(1, [])) + (log_p(5, [1, 2, 1]) - log_p(5, [1]))
    found = mutual_information(repeats, words, [["1 2", "1 5"]])
    assert found.nats_per_token == pytest.approx(expected / 2, rel=1e-5)
    forgets = mutual_information(repeats, words, [["5", "1 2", "1 5"]], k=1)
    kept = (log_p(1, [5]) - log_p(1, [])) + (log_p(2, [5, 1]) - log_p(2, [1])) + expected
    assert forgets.nats_per_token == pytest.approx(kept / 4, rel=1e-5)


def test_bleu_is_one_for_the_same_and_known_for_a_part():
    text = "the cat sat on the mat ."
    assert bleu([text], [text]) == 1.0
    assert bleu(["nothing of it at all"], [text]) == 0.0
    # 6 of 7 words, 4 of 6 pairs, 2 of 5 runs of three and 1 of 4 of four, and the same length
    expected = (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25
    assert bleu(["the cat sat on a mat ."], [text]) == pytest.approx(expected)
    assert bleu(["the cat sat on"], [text]) == pytest.approx(math.exp(1 - 7 / 4))


def test_a_uniform_decoder_costs_log2_of_the_ids_and_what_is_behind_the_end_is_not_scored():
    decoder = ConceptDecoder(6, 16, 1)
    nn.init.zeros_(decoder.head.weight)
    nn.init.zeros_(decoder.head.bias)
    sentences = ["ab", "long as this"]
    assert rows_of(sentences)[0].tolist()[:5] == [BOS, *encode("ab").tolist(), EOS, EOS]
    expected = (2 + 1 + 12 + 1) * math.log2(VOCABULARY) / 14
    assert bits_per_byte(decoder, drawn(2, 6), sentences) == pytest.approx(expected, rel=1e-5)


def test_no_byte_is_predicted_from_itself_and_every_byte_from_the_vector():
    torch.manual_seed(0)
    decoder, ids = ConceptDecoder(6, 16, 1), rows_of(["abcdef"])
    other = ids.clone()
    other[0, 4:] = 80
    assert torch.allclose(decoder(drawn(1, 6), ids)[:, :4], decoder(drawn(1, 6), other)[:, :4], atol=1e-6)
    change = (decoder(drawn(1, 6), ids) - decoder(drawn(1, 6, seed=1), ids)).abs().amax(-1)
    assert float(change.detach().min()) > 1e-4
    assert torch.equal(decoder(None, ids), decoder(drawn(1, 6), ids, without=torch.tensor([True])))


SAID = ["the dog runs", "a cat sleeps now", "we eat bread", "it rains hard today"]


@pytest.fixture(scope="module")
def learned() -> tuple[ConceptDecoder, torch.Tensor]:
    """Four sentences with vectors at right angles, learned by heart."""
    torch.manual_seed(0)
    decoder, vectors = ConceptDecoder(8, 32, 1), torch.eye(8)[:4]
    trained(decoder, SAID, vectors, DecoderSettings(steps=250, rows=16, rate=1e-2), 0)
    return decoder, vectors


def test_what_was_learned_by_heart_is_written_again(learned):
    decoder, vectors = learned
    assert decoder.write(vectors, 4, most=40) == SAID


def test_controls_lose_what_the_vector_says(learned):
    decoder, vectors = learned
    given = controls(vectors, vectors)
    assert torch.equal(given[OTHERS], vectors[[2, 3, 0, 1]])
    assert torch.allclose(given[MEAN], torch.full((4, 8), 0.5) * (vectors.sum(0) > 0))
    bits = {name: bits_per_byte(decoder, each, SAID) for name, each in given.items()}
    assert bits[OWN] < 0.2
    # one of four sentences: without a vector two bits have to be told, at 12 to 19 bytes a sentence
    assert bits[NONE] > bits[OWN] + 0.05
    assert bits[OTHERS] > bits[NONE]


def test_a_run_has_every_control_beside_the_text_and_judges_new_sentences_only():
    class Encoder:
        def encode(self, sentences):
            return torch.stack([drawn(6, seed=len(sentence)) for sentence in sentences])

    sentences = [(*(f"s {n} {k}" for k in range(3)), "same in all", "End of text.") for n in range(10)]
    vectors = nn.functional.normalize(drawn(10, 5, 6), dim=-1)
    documents = Documents(vectors, torch.full((10,), 5), tuple(sentences), vectors[0, 4])
    run = decoder_run(documents, Encoder(), DecoderSettings(16, 1, 2, 4), 0, silent)
    assert set(run.bits) == set(CONTROLS)
    assert set(run.bleu) == set(run.cosine) == {*CONTROLS, NEAREST}
    assert run.sentences == (8 * 4, 2 * 3)  # "same in all" is known, the end of a text is none
    assert all(true.startswith("s ") for true, _ in run.shown)
