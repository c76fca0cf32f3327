"""lm-evaluation-harness, wrapped: its numbers against our own scores and plain loops, offline; bad input in words."""

from __future__ import annotations

import json
import math
import socket
import sys
from pathlib import Path

import families
import pytest
import torch
from small import embedded_model, embedded_tokenizer, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install superweights[eval]")

import lm_eval.tasks
from lm_eval.api.registry import get_model

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.editing import Edit, edited
from superweights.errors import SuperweightsError
from superweights.harness import PACK, Conditions, SuperweightsLM, accuracy, tasks
from superweights.harness.__main__ import main
from superweights.scoring import predict_last_words, token_losses
from superweights.stream import streaming
from superweights.subject.text import encode

LAMBADA = Path(__file__).parent.parent.parent / "shared" / "data" / "lambada_test.jsonl"
WORDS = ["the", "of", "?"] + [f"w{i}" for i in range(47)]
EDIT = Edit(Address("model.layers.0.mlp.down_proj.weight", (3, 5)), value=60)

pytestmark = pytest.mark.tiny


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """The pack must work on a machine without any network."""

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?", bos_token="the")


@pytest.fixture
def model() -> torch.nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 64}
    made = tiny(LlamaConfig(num_hidden_layers=2, num_attention_heads=2, **sizes))
    made.lm_head.weight.data *= 20
    return made


@pytest.fixture
def texts(model, tokenizer) -> list[str]:
    """Random words; half of the texts end in what the model would say."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (24,), generator=generator).tolist()
    made = [" ".join(WORDS[i] for i in torch.randint(3, 50, (n,), generator=generator)) for n in lengths]
    for i in range(12):
        ids = encode(tokenizer, made[i])
        with torch.no_grad():
            ids[-1] = int(model(torch.tensor([ids[:-1]])).logits[0, -1].argmax())
        made[i] = " ".join(WORDS[k] for k in ids)
    return made


@pytest.fixture
def passages(texts, tmp_path) -> Path:
    return write(tmp_path / "passages.jsonl", [{"text": text} for text in texts])


def write(path: Path, documents: list) -> Path:
    path.write_text("\n".join(json.dumps(each) for each in documents) + "\n")
    return path


def by_name(scores) -> dict:
    return {score.name: score for score in scores}


# --- the numbers


@pytest.mark.parametrize("edits", [(), (EDIT,)])
def test_last_words_are_scored_as_by_our_own_loop(model, tokenizer, texts, passages, edits):
    found = by_name(accuracy(model, tokenizer, [f"last_word={passages}"], edits=edits))
    with edited(model, edits):
        own = predict_last_words(model, tokenizer, texts)
    assert 0 < own.accuracy.value < 1
    assert found["last_word/acc"].value == pytest.approx(own.accuracy.value, abs=1e-9)
    assert found["last_word/acc"].standard_error == pytest.approx(own.accuracy.standard_error, rel=1e-6)
    assert found["last_word/perplexity"].value == pytest.approx(own.perplexity.value, rel=1e-4)
    assert found["last_word/acc"].n == 24


def test_perplexity_is_scored_as_by_our_own_loop(model, tokenizer, texts, passages):
    found = by_name(accuracy(model, tokenizer, [f"perplexity={passages}"]))
    rows = [[tokenizer.bos_token_id, *encode(tokenizer, text)] for text in texts]
    nats = sum(token_losses(model, torch.tensor([row])).double().sum().item() for row in rows)
    nbytes, words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
    assert found["perplexity/bits_per_byte"].value == pytest.approx(nats / math.log(2) / nbytes, rel=1e-4)
    assert found["perplexity/word_perplexity"].value == pytest.approx(math.exp(nats / words), rel=1e-4)


def test_a_text_longer_than_the_context_is_cut_into_windows_that_score_each_token_once(
    model, tokenizer, tmp_path
):
    ids = torch.randint(3, 50, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    path = write(tmp_path / "long.jsonl", [{"text": " ".join(WORDS[i] for i in ids)}])
    conditions = Conditions(max_length=16)
    found = by_name(accuracy(model, tokenizer, [f"perplexity={path}"], conditions=conditions))
    nats = 0.0
    row = [tokenizer.bos_token_id, *ids]
    for start, stop in (
        (0, 16),
        (16, 32),
        (32, 40),
    ):  # predicted; the last window reaches back for its context
        window = torch.tensor([row[max(0, min(start, stop - 16)) : stop + 1]])
        nats += token_losses(model, window)[0, start - stop :].double().sum().item()
    assert found["perplexity/word_perplexity"].value == pytest.approx(math.exp(nats / 40), rel=1e-4)
    assert found["perplexity/word_perplexity"].standard_error is None, "one text has no spread"


def test_choices_are_made_as_by_a_plain_loop(model, tokenizer, texts, tmp_path):
    choices = ["w3", "w4 w5", "of"]
    asked = [
        {"question": t, "choices": choices, "answer": i % 3 if i % 2 else choices[i % 3]}
        for i, t in enumerate(texts)
    ]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(asked))
    found = by_name(accuracy(model, tokenizer, [f"choice={path}"]))
    hits = 0
    for i, text in enumerate(texts):
        costs = []
        for choice in choices:
            start, whole = encode(tokenizer, text), encode(tokenizer, f"{text} {choice}")
            losses = token_losses(model, torch.tensor([whole]))[0, len(start) - 1 :]
            costs.append(losses.sum().item())
        hits += costs.index(min(costs)) == i % 3
    assert found["choice/acc"].value == pytest.approx(hits / len(texts), abs=1e-9)
    assert found["choice/acc"].unit == "of items"


def test_the_error_of_a_ratio_is_that_of_resampled_texts(model, tokenizer, texts, passages):
    found = by_name(accuracy(model, tokenizer, [f"perplexity={passages}"]))
    rows = [torch.tensor([[0, *encode(tokenizer, text)]]) for text in texts]
    nats = torch.tensor([token_losses(model, row).sum().item() for row in rows])
    size = torch.tensor([float(len(text.encode())) for text in texts])
    drawn = torch.randint(24, (4000, 24), generator=torch.Generator().manual_seed(0))
    resampled = nats[drawn].sum(1) / size[drawn].sum(1)
    expected = {"bits_per_byte": resampled / math.log(2), "byte_perplexity": resampled.exp()}
    for name, values in expected.items():
        score = found[f"perplexity/{name}"]
        assert score.standard_error == pytest.approx(values.std().item(), rel=0.15)


def test_a_perplexity_beyond_all_bounds_is_a_sentence(model, tokenizer, passages):
    """lm-eval squares resampled perplexities; of e^400 it cannot."""
    huge = Edit(Address("lm_head.weight", (7, 5)), value=1e5)
    with pytest.raises(SuperweightsError, match="cannot tell its error"):
        accuracy(model, tokenizer, [f"last_word={passages}"], edits=[huge])


def test_the_model_and_its_tokenizer_are_left_as_they_were(model, tokenizer, passages):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert tokenizer.pad_token is None
    accuracy(model, tokenizer, [f"last_word={passages}"], 4, edits=str(EDIT))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert tokenizer.pad_token is None


def test_a_limit_takes_the_first_items(model, tokenizer, passages):
    found = by_name(accuracy(model, tokenizer, [f"last_word={passages}"], 12))
    assert found["last_word/acc"].n == 12
    assert found["last_word/acc"].value == 1.0, "the first half ends in the model's own words"


def test_two_files_of_one_kind_are_two_tasks(model, tokenizer, texts, passages, tmp_path):
    other = write(tmp_path / "others.jsonl", [{"text": text} for text in texts[12:]])
    found = by_name(accuracy(model, tokenizer, [f"last_word={passages}", f"last_word={other}"]))
    assert found["last_word/acc"].n == 24
    assert found["last_word others/acc"].n == 12


def test_a_task_file_of_ones_own_works_offline(model, tokenizer, texts, passages, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    task = tmp_path / "mine.yaml"
    task.write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {passages}}}}}\n"
        "test_split: test\noutput_type: loglikelihood\n"
        "doc_to_text: \"{{text.split(' ')[:-1]|join(' ')}}\"\n"
        "doc_to_target: \"{{' '+text.split(' ')[-1]}}\"\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    found = by_name(accuracy(model, tokenizer, [str(task)]))
    own = predict_last_words(model, tokenizer, texts).accuracy
    assert found["mine/acc"].value == pytest.approx(own.value, abs=1e-9)


# --- our models in lm-eval


@pytest.fixture
def folder(tokenizer, tmp_path) -> Path:
    path = tmp_path / "model"
    families.save_tiny("llama", path)
    tokenizer.save_pretrained(path)
    return path


def test_lm_eval_knows_our_models_and_their_edits(folder):
    weight = "model.layers.1.mlp.down_proj.weight"
    written = f"pretrained={folder},edits={weight}[3, 4]=0;{weight}[5, 6]:=2.5,max_length=32"
    lm = get_model("superweights").create_from_arg_string(written, {"batch_size": 2, "device": "cuda:0"})
    assert isinstance(lm, SuperweightsLM)
    held = lm.model.get_parameter(weight)
    before = held[3, 5].item()
    assert (held[3, 4].item(), held[5, 6].item(), lm.max_length, lm.batch_size) == (0.0, 2.5, 32, 2)
    lm.close()
    assert held[5, 6].item() != 2.5
    assert held[3, 5].item() == before


def test_a_streamed_model_scores_as_a_resident_one(folder, passages, tokenizer):
    edit = Edit(Address("model.layers.1.mlp.down_proj.weight", (3, 4)), value=30)
    asked = [f"last_word={passages}", f"perplexity={passages}"]
    with open_checkpoint(str(folder)) as checkpoint:
        with streaming(checkpoint, resident=True) as model:
            base = accuracy(model, tokenizer, asked, 6)
            resident = accuracy(model, tokenizer, asked, 6, edits=[edit])
        with streaming(checkpoint, resident=False) as model:
            streamed = accuracy(model, tokenizer, asked, 6, edits=[edit])
    assert streamed == resident
    assert resident != base


def test_lm_evals_own_command_runs_with_our_model_and_pack(folder, passages, monkeypatch, capsys):
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")  # resampling in this process
    known = lm_eval.tasks.TaskManager
    monkeypatch.setattr(  # without the index of thousands of task files that we do not ask for
        lm_eval.tasks, "TaskManager", lambda **given: known(**given | {"include_defaults": False})
    )
    made = f"pretrained={folder},edits=model.layers.1.mlp.down_proj.weight[3, 4]=0"
    data = json.dumps({"data": str(passages)})
    argv = ["lm_eval", "--model", "superweights", "--model_args", made]
    monkeypatch.setattr(sys, "argv", [*argv, "--tasks", "last_word", "--metadata", data, "--limit", "3"])
    assert main() == 0
    assert "|last_word|" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*argv, "--tasks", "last_word"])
    assert main() == 1
    assert "needs a file of its own" in capsys.readouterr().err


def test_the_command_prints_a_record(folder, passages, capsys):
    weight = "model.layers.1.mlp.down_proj.weight[3, 4]"
    given = [
        "evaluate",
        str(folder),
        "--tasks",
        f"last_word={passages}",
        "--edit",
        f"{weight}:=30",
        "--limit",
        "5",
    ]
    assert run([*given, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [score["name"] for score in record["scores"]] == [s["name"] for s in record["findings"]["edited"]]
    assert record["findings"]["base"] != record["findings"]["edited"]
    assert record["versions"]["lm_eval"] == lm_eval.__version__
    assert run(given) == 0
    assert "last_word/acc" in capsys.readouterr().out


# --- bad input


@pytest.mark.parametrize(
    ("documents", "kind", "said"),
    [
        ([{"text": "a fine day"}, {"body": "x"}], "last_word", r"Document 2 of .*\.jsonl has no text"),
        ([{"text": "word"}], "last_word", "Document 1 .* is a single word"),
        ([{"text": " "}], "perplexity", "Document 1 .* has no text"),
        (["a line"], "perplexity", "Document 1 .* is not an object"),
        ([{"question": "Is it?", "answer": 0}], "choice", "Document 1 .* has no choices"),
        ([{"question": "q", "choices": ["a"], "answer": 0}], "choice", "needs two or more choices"),
        (
            [{"question": "q", "choices": ["a", "b"], "answer": 2}],
            "choice",
            "has the answer 2, which is neither",
        ),
        ([{"question": "q", "choices": ["a", "b"], "answer": "c"}], "choice", "has the answer 'c'"),
    ],
)
def test_a_document_with_missing_fields_is_named(model, tokenizer, tmp_path, documents, kind, said):
    path = write(tmp_path / "documents.jsonl", documents)
    with pytest.raises(SuperweightsError, match=said):
        accuracy(model, tokenizer, [f"{kind}={path}"])


def test_files_that_hold_no_documents_are_refused(model, tokenizer, tmp_path):
    empty, broken = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl"
    empty.write_text("\n")
    broken.write_text('{"text": "a b"}\n{"text": "a')
    for asked, said in (
        (f"last_word={tmp_path / 'absent.jsonl'}", "There is no file"),
        (f"last_word={empty}", "holds no documents"),
        (f"last_word={broken}", "is not JSON"),
        ("last_word", "last_word needs a file of its own"),
        (str(tmp_path / "absent.yaml"), "There is no task file"),
    ):
        with pytest.raises(SuperweightsError, match=said):
            accuracy(model, tokenizer, [asked])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "task: t\noutput_type: loglikelihood\n",
            "does not say dataset_path or custom_dataset, test_split or",
        ),
        (
            "task: t\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: q\n"
            "doc_to_target: a\n",
            "does not say doc_to_choice",
        ),
        ("- one\n- two\n", "holds no fields"),
        ("task: [unclosed\n", "is not YAML"),
        (
            "task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: /nowhere/x.jsonl}}\n"
            "test_split: test\noutput_type: loglikelihood\ndoc_to_text: a\ndoc_to_target: b\n",
            "cannot be loaded",
        ),
    ],
)
def test_a_task_file_with_missing_fields_is_refused_in_words(model, tokenizer, tmp_path, content, said):
    path = tmp_path / "task.yaml"
    path.write_text(content)
    with pytest.raises(SuperweightsError, match=said):
        accuracy(model, tokenizer, [str(path)])


def test_a_task_that_nobody_knows_or_that_is_out_of_reach_is_refused(model, tokenizer, tmp_path, monkeypatch):
    known = tasks.TaskManager
    monkeypatch.setattr(tasks, "TaskManager", lambda **given: known(**given | {"include_defaults": False}))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "remote.yaml").write_text(
        "task: remote\ndataset_path: nobody/nothing\ntest_split: test\noutput_type: loglikelihood\n"
        "doc_to_text: a\ndoc_to_target: b\n"
    )
    conditions = Conditions(include_path=tmp_path)
    for asked, hint in [("nothing", "lm-eval ls tasks"), ("remoet", "close ones: remote")]:
        with pytest.raises(SuperweightsError, match=f"There is no task '{asked}'") as refused:
            accuracy(model, tokenizer, [asked], conditions=conditions)
        assert hint in refused.value.hint
    with pytest.raises(SuperweightsError, match="The task remote cannot be loaded"):
        accuracy(model, tokenizer, ["remote"], conditions=conditions)


def test_edits_limits_and_tokenizers_that_make_no_sense_are_refused(model, tokenizer, passages):
    asked = [f"last_word={passages}"]
    with pytest.raises(SuperweightsError, match="has no tensor nowhere"):
        accuracy(model, tokenizer, asked, edits="nowhere[1, 2]=0")
    with pytest.raises(SuperweightsError, match="is not an edit"):
        accuracy(model, tokenizer, asked, edits="nowhere")
    with pytest.raises(SuperweightsError, match="limit of 0"):
        accuracy(model, tokenizer, asked, 0)
    with pytest.raises(SuperweightsError, match="has no tokenizer"):
        accuracy(model, None, asked)
    with pytest.raises(SuperweightsError, match="No task was asked for"):
        accuracy(model, tokenizer, [])


def test_without_lm_eval_the_command_says_what_to_install(folder, passages, monkeypatch, capsys):
    for name in [n for n in sys.modules if n == "lm_eval" or n.startswith("superweights.harness")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert run(["evaluate", str(folder), "--tasks", f"last_word={passages}"]) == 1
    said = capsys.readouterr().err
    assert "needs lm-evaluation-harness" in said
    assert 'pip install "superweights[eval]"' in said


def test_the_pack_holds_a_task_file_for_each_kind():
    assert sorted(path.stem for path in PACK.glob("*.yaml")) == list(tasks.KINDS)


@pytest.mark.real
@pytest.mark.skipif(not LAMBADA.exists(), reason="the LAMBADA test set is not in ../shared/data")
def test_lambada_on_the_embedded_model_is_scored_as_by_our_own_loop(tmp_path):
    lines = LAMBADA.read_text().splitlines()[:12]
    path = tmp_path / "lambada.jsonl"
    path.write_text("\n".join(lines))
    found = by_name(accuracy(embedded_model(), embedded_tokenizer(), [f"last_word={path}"]))
    texts = [json.loads(line)["text"] for line in lines]
    own = predict_last_words(embedded_model(), embedded_tokenizer(), texts)
    assert found["last_word/acc"].value == pytest.approx(own.accuracy.value, abs=1e-9)
    assert found["last_word/perplexity"].value == pytest.approx(own.perplexity.value, rel=1e-4)
