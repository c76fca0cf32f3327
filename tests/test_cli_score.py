"""`score`, `ablate` and `scale` on a small checkpoint on disk, as a person calls them."""

from __future__ import annotations

import json

import pytest
import torch
from small import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from superweights.cli import run
from superweights.editing import Edit, edited
from superweights.record import Record
from superweights.scoring import perplexity
from superweights.subject.text import embedded_prose, read_text, windows

ONE = "model.layers.1.mlp.down_proj.weight[3, 5]"
TWO = "model.layers.0.self_attn.q_proj.weight[1, 2]"
SHORT = ["--window", "16", "--windows", "3", "--device", "cpu"]

pytestmark = pytest.mark.tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model of bytes, with its tokenizer."""
    path = tmp_path_factory.mktemp("model")
    tiny(
        LlamaConfig(
            vocab_size=256, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        )
    ).save_pretrained(path)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={ch: i for i, ch in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model_and_tokenizer(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def record_of(capsys, *arguments: str) -> Record:
    assert run([*arguments, *SHORT, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return Record.from_json(out)


def test_a_plain_score_is_the_librarys(folder, model_and_tokenizer, capsys):
    model, tokenizer = model_and_tokenizer
    record = record_of(capsys, "score", str(folder))
    wanted = perplexity(model, windows(tokenizer, embedded_prose(), 16, 3))
    perplexity_here, bits = record.scores
    assert perplexity_here.value == pytest.approx(wanted.value, rel=1e-6)
    assert perplexity_here.standard_error == pytest.approx(wanted.standard_error, rel=1e-5)
    bits_wanted = torch.tensor(wanted.value).log2().item()  # one token is one byte here
    assert bits.value == pytest.approx(bits_wanted, rel=1e-6)
    assert record.inputs["name"] == str(folder)
    assert record.inputs["text_sha256"] == embedded_prose().sha256
    assert record.findings["rows"] == []
    assert record.findings["conditions"]["tokens_scored"] == 45


def test_edits_of_one_score_are_made_together(folder, model_and_tokenizer, capsys, tmp_path):
    model, tokenizer = model_and_tokenizer
    file = tmp_path / "text.txt"
    file.write_text("It was a fine day, and the sea was calm. " * 3)
    edits = [f"{ONE}:=7.5", f"{TWO}=-20"]
    record = record_of(
        capsys, "score", str(folder), "--edit", edits[0], "--edit", edits[1], "--text", str(file)
    )
    with edited(model, [Edit.parse(each) for each in edits]):
        wanted = perplexity(model, windows(tokenizer, read_text(file), 16, 3))
    (row,) = record.findings["rows"]
    assert row["perplexity"]["value"] == pytest.approx(wanted.value, rel=1e-6)
    assert [Edit.from_json(edit) for edit in row["edits"]] == [Edit.parse(each) for each in edits]
    assert row["changes"][0]["after"] == 7.5
    assert row["kl"]["value"] > 0


def test_a_stride_below_the_window_scores_only_what_is_new(folder, model_and_tokenizer, capsys):
    model, tokenizer = model_and_tokenizer
    record = record_of(capsys, "score", str(folder), "--stride", "4")
    rows = windows(tokenizer, embedded_prose(), 16, 3, stride=4)
    assert record.scores[0].value == pytest.approx(perplexity(model, rows, first=12).value, rel=1e-6)
    assert record.findings["conditions"]["tokens_scored"] == 12


def test_ablate_judges_each_weight_alone_and_all_together(folder, model_and_tokenizer, capsys):
    model, tokenizer = model_and_tokenizer
    record = record_of(capsys, "ablate", str(folder), ONE, TWO)
    rows = windows(tokenizer, embedded_prose(), 16, 3)
    base = perplexity(model, rows).value
    for row, gone in zip(record.findings["rows"], ([ONE], [TWO], [ONE, TWO]), strict=True):
        assert [change["address"] for change in row["changes"]] == gone
        assert all(change["after"] == 0 for change in row["changes"])
        with edited(model, [Edit.parse(f"{address}=0") for address in gone]):
            wanted = perplexity(model, rows).value
        assert row["perplexity"]["value"] == pytest.approx(wanted, rel=1e-6)
        assert row["loss"]["value"] == pytest.approx(
            (torch.tensor(wanted).log() - torch.tensor(base).log()).item(), abs=1e-5
        )


def test_scale_has_a_row_for_each_factor(folder, capsys):
    record = record_of(
        capsys, "scale", str(folder), ONE, "--factor", "0.5", "--factor", "-3", "--factor", "1"
    )
    rows = record.findings["rows"]
    assert [row["name"] for row in rows] == ["0.5 times", "-3 times", "1 times"]
    before = rows[0]["changes"][0]["before"]
    assert [row["changes"][0]["after"] / before for row in rows] == pytest.approx([0.5, -3, 1], rel=1e-6)
    assert rows[2]["loss"]["value"] == rows[2]["kl"]["value"] == 0


def test_passages_continuations_and_shift_are_in_the_record(folder, capsys, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a b c", "one two three", "x y")))
    record = record_of(
        capsys, "score", str(folder), "--edit", f"{ONE}=0", "--passages", str(file), "--count", "2",
        "--prompt", "It was", "--new-tokens", "3", "--shift",
    )  # fmt: skip
    base, gone = record.findings["last_words"]
    assert (base["name"], gone["name"]) == ("base", "edited")
    assert base["accuracy"]["n"] == 2
    (continuation,) = record.findings["continuations"]
    assert continuation["prompt"] == "It was"
    (shift,) = record.findings["shift"]
    assert shift["prompts"] == 2
    assert len(shift["leading"]) == 20


def test_tables_are_for_people_and_the_record_goes_to_a_file(folder, capsys, tmp_path):
    out = tmp_path / "record.json"
    assert run(["ablate", str(folder), ONE, TWO, *SHORT, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    for words in ("as they are", "1 gone", "all 2 gone", f"1: {ONE}", "3 windows of 16 tokens"):
        assert words in shown.out
    assert Record.from_json(out.read_text()).command == "ablate"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["ablate", "{}", "model.layers.1.mlp.down_porj.weight[3, 5]"], "closest names"),
        (["ablate", "{}", "model.layers.1.mlp.down_proj.weight[99, 5]"], "outside"),
        (["ablate", "{}", ONE, ONE], "one weight"),
        (["ablate", "{}", "nonsense"], "not an address"),
        (["ablate", "{}"], "address"),
        (["scale", "{}", ONE], "factor"),
        (["scale", "{}", ONE, "--factor", "nan"], "finite"),
        (["scale", "{}", ONE, "--factor", "x"], "factor"),
        (["score", "{}", "--edit", f"{ONE}=nan"], "finite"),
        (["score", "{}", "--edit", ONE], "not an edit"),
        (["score", "{}", "--text", "absent.txt"], "no file"),
        (["score", "{}", "--windows", "100000"], "too few"),
        (["score", "{}", "--window", "1"], "window"),
        (["score", "{}", "--bos", "yes"], "beginning-of-sequence"),
        (["score", "{}", "--passages", "absent.jsonl"], "no file"),
        (["score", "absent"], "absent"),
    ],
)
def test_bad_input_ends_with_a_sentence_a_hint_and_the_right_code(folder, capsys, arguments, word):
    arguments = [part.format(folder) if part == "{}" else part for part in arguments]
    options = [] if {"--windows", "--window"} & set(arguments) else ["--window", "16", "--windows", "3"]
    code = run([*arguments, *options])
    shown = capsys.readouterr()
    assert code == (2 if "superweights --help" in shown.err else 1)
    assert word in shown.err
    assert "hint:" in shown.err
    assert not shown.out


def test_a_checkpoint_without_a_tokenizer_is_explained(folder, capsys, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert run(["score", str(tmp_path), *SHORT]) == 1
    assert "no tokenizer" in capsys.readouterr().err
