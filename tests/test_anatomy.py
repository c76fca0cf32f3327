"""The frame of anatomy: one pass for many questions, on resident and streamed models; what is refused."""

from __future__ import annotations

import json

import families
import pytest
import torch
from small import embedded_folder, tiny
from transformers import BertConfig, LlamaConfig

from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.interpretability import QUESTIONS, Body, Kurtosis, Study, ask, question_named, to_json
from superweights.interpretability.body import matrix_of
from superweights.interpretability.questions import answer_all
from superweights.picture import svg
from superweights.record import Record
from superweights.stream import streaming
from superweights.taps import Site

pytestmark = pytest.mark.tiny


class Peak:
    """The smallest reduction: the largest value after each block, and how often it was called."""

    def __init__(self):
        self.peaks, self.rows = {}, []

    def taps(self, body):
        return {site: self._look(site.layer) for site in body.every("block_out")}

    def begin(self, ids):
        self.rows.append(len(ids))

    def answer(self):
        return self.peaks

    def _look(self, layer):
        def look(hidden):
            self.peaks[layer] = max(self.peaks.get(layer, 0.0), hidden.abs().max().item())

        return look


def ids(rows: int = 4, tokens: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        3, families.VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed)
    )


def test_several_questions_in_one_pass_answer_as_alone():
    model = families.tiny_model("llama")
    together = ask(model, ids(), Peak(), Kurtosis(), Peak(), batch_size=3)
    alone = [ask(model, ids(), each, batch_size=3)[0] for each in (Peak(), Kurtosis())]
    assert together[0] == together[2] == alone[0]
    assert together[1] == alone[1]


def test_the_answer_does_not_depend_on_the_batches():
    model, peak = families.tiny_model("llama"), Peak()
    whole, parts = ask(model, ids(), Kurtosis())[0], ask(model, ids(), Kurtosis(), peak, batch_size=3)[0]
    assert peak.rows == [3, 1]
    for name in ("first", "others", "attention", "mlp", "channel_mean", "channel_max"):
        assert getattr(whole, name) == pytest.approx(getattr(parts, name), rel=1e-4)


def test_a_streamed_model_answers_as_a_resident_one(tmp_path):
    families.save_tiny("llama", tmp_path)
    answers = []
    for resident in (True, False):
        with open_checkpoint(tmp_path) as checkpoint, streaming(checkpoint, resident=resident) as model:
            answers.append(ask(model, ids(), Kurtosis(), Peak()))
    assert answers[0] == answers[1]
    assert answers[0][0].weights is not None


def test_hidden_states_are_those_of_transformers():
    model = families.tiny_model("llama")
    (peaks,) = ask(model, ids(), Peak())
    with torch.no_grad():
        states = model(input_ids=ids(), output_hidden_states=True).hidden_states
    assert peaks[0] == states[1].abs().max().item()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "phi3"])
def test_the_matrix_of_an_output_projection_makes_its_output(kind):
    model = families.tiny_model(kind)
    body = Body.of(model)
    for site in (Site("head_out", 1), Site("mlp_act", 1)):
        module, matrix = body.module(site), body.matrix(site)
        given = torch.randn(3, matrix.shape[1], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = module(given) - module(torch.zeros_like(given))
        assert torch.allclose(given @ matrix.T, expected, atol=1e-5)


def test_a_matrix_in_unknown_storage_is_read_by_applying_it():
    class Packed(torch.nn.Linear):
        pass

    module = Packed(700, 5)
    assert torch.allclose(matrix_of(module), module.weight, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (torch.zeros(2, 0, dtype=torch.long), "Token ids must be"),
        pytest.param(torch.zeros(5, dtype=torch.long), "Token ids must be", marks=pytest.mark.misshapen),
        pytest.param(torch.zeros(2, 5), "Token ids must be", marks=pytest.mark.misshapen),
        (torch.full((1, 5), families.VOCABULARY), "and the model knows"),
        (torch.full((1, 2000), 3), "the model reads at most"),
        (torch.full((1, 1), 3), "Rows of one token"),
    ],
)
def test_ids_that_cannot_be_asked_about_are_refused(given, complaint):
    with pytest.raises(SuperweightsError, match=complaint):
        ask(families.tiny_model("llama"), given, Kurtosis())


def test_left_padding_is_refused_and_names_the_row():
    model = tiny(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=2, pad_token_id=0))  # fmt: skip
    padded = torch.tensor([[5, 6, 7, 8], [0, 5, 6, 7]])
    with pytest.raises(SuperweightsError, match="Row 1 starts with padding"):
        ask(model, padded, Peak())
    model.config.eos_token_id = 0  # one token for both: a single one may be the text's
    ask(model, padded, Peak())
    with pytest.raises(SuperweightsError, match="Row 0 starts with padding"):
        ask(model, torch.tensor([[0, 0, 5, 6]]), Peak())


def test_a_model_without_its_attention_in_sight_is_refused_with_the_reason():
    model = families.tiny_model("mamba")
    with pytest.raises(SuperweightsError, match="cannot be seen"):
        Body.of(model).attending()


def test_an_encoder_is_refused_by_the_command_line(tmp_path, capsys):
    BertConfig(num_hidden_layers=1, hidden_size=32, intermediate_size=48).save_pretrained(tmp_path)
    tiny(BertConfig(num_hidden_layers=1, hidden_size=32, intermediate_size=48, num_attention_heads=2,
                    vocab_size=64, is_decoder=True)).save_pretrained(tmp_path)  # fmt: skip
    assert run(["anatomy", "kurtosis", str(tmp_path)]) == 1
    assert "hint:" in capsys.readouterr().err


def test_every_question_is_answered_or_refused_in_words_on_many_families():
    for kind in ("llama", "gpt2", "gpt_neox", "gemma2", "mixtral", "falcon", "mamba"):
        study = Study(families.tiny_model(kind), ids(4, 16))
        answers = answer_all(study)
        assert set(answers) == {question.word for question in QUESTIONS if question.one_pass}
        for answer in answers.values():
            if isinstance(answer, str):
                assert len(answer) > 20
                continue
            json.dumps(to_json(answer))
            assert answer.sheets()
            assert svg(answer.panels()).startswith("<svg")


def test_unknown_questions_and_impossible_options_are_refused(capsys, tmp_path):
    with pytest.raises(SuperweightsError, match="There is no question"):
        question_named("weather")
    for words, complaint in (
        (["weather"], "There is no question"),
        (["all", "--causal"], "All questions at once only look"),
        (["kurtosis", "--causal"], "has no intervention"),
        (["kurtosis", "--picture", "x.png"], "Cannot draw into"),
        (["kurtosis", "--picture", str(tmp_path / "none" / "x.svg")], "Cannot write"),
    ):
        assert run(["anatomy", *words]) == 1
        assert complaint in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.real
def test_the_command_prints_a_table_a_record_and_a_picture(tmp_path, capsys):
    embedded_folder()
    words = ["anatomy", "kurtosis", "--window", "16", "--windows", "2"]
    out, picture = tmp_path / "o.json", tmp_path / "p.svg"
    assert run([*words, "--out", str(out), "--picture", str(picture)]) == 0
    assert "kurtosis of first tokens" in capsys.readouterr().out
    record = Record.from_json(out.read_text())
    assert record.findings["answers"]["kurtosis"]["features"][0]["channel"] == 507
    assert record.findings["conditions"]["bos"] is False
    assert picture.read_text().startswith("<svg")
    assert record.command == "anatomy kurtosis"
