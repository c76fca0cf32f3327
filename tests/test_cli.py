"""The command line as a person meets it: what it prints, what it refuses and in which words, how it is stopped."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import families
import planting
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import superweights
from superweights.cli import app, console, run
from superweights.cli.options import PANELS
from superweights.record import Record, SuperWeight
from superweights.subject.text import raw_prompts
from superweights.wording import counted

pytestmark = pytest.mark.tiny

COMMANDS = sorted(command.name for command in app.registered_commands)
PLANTED_ON = raw_prompts(families.VOCABULARY, 8, 12)  # what find looks at where there is no tokenizer


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, str]:
    """A tiny Llama in several shards, without a tokenizer, with a super weight; and the weight's address."""
    folder = tmp_path_factory.mktemp("planted")
    model = families.tiny_model("llama")
    weight = planting.plant(model, PLANTED_ON)
    families.save_tiny("llama", folder, model, shard="100KB")
    return folder, f"{weight.parameter}[{weight.index[0]}, {weight.index[1]}]"


@pytest.fixture(scope="module")
def worded(planted, tmp_path_factory) -> Path:
    """The same with a tokenizer, one token a byte."""
    folder = Path(shutil.copytree(planted[0], tmp_path_factory.mktemp("worded") / "model"))
    inner = Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(folder)
    return folder


def started(*arguments: str, **options) -> subprocess.Popen:
    """The command line in a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, *arguments], text=True, **pipes)


def refused(capsys, *arguments: str, code: int = 1) -> tuple[str, str]:
    """The sentence and the hint with which a command line is refused; there is nothing else but the exit code."""
    assert run(list(arguments)) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    error, hint = shown.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert len(hint) > len("hint: ")
    return error, hint


# --- help, and what it costs ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr()
    assert f"superweights {command}" in re.sub(r"\s+", " ", shown.out)
    assert shown.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_keeps_the_brackets_of_its_examples(command, monkeypatch, capsys):
    """rich takes [words] for markup."""
    monkeypatch.setenv("COLUMNS", "200")
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert not re.search(r"TENSOR(?!\[i, j\])|org/name(?!\[@revision\])|\.weight(?!\[\d)", shown)


def test_help_breaks_no_line_in_the_middle_of_a_paragraph(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["census", "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "Killed at any moment and started again it goes on where it was." in lines


@pytest.mark.parametrize("command", COMMANDS)
def test_help_groups_its_options_and_cuts_nothing_at_80_columns(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    panels = [line.split()[1] for line in lines if line.startswith("╭─ ")]
    told = [panel for panel in panels if panel in PANELS]
    assert told == sorted(told, key=PANELS.index)
    assert set(panels) <= {"Arguments", "Options", *PANELS}
    assert all(len(line) <= 80 and "…" not in line for line in lines)


def test_help_and_the_package_itself_need_neither_torch_nor_transformers():
    """All commands' help in one fresh process: a single import at the top of one of their files would show."""
    code = f"""
import sys
import superweights
assert not {{"torch", "transformers"}} & set(sys.modules), "import superweights"
from superweights.cli import run
for command in {["--help", *COMMANDS]!r}:
    run([command] if command == "--help" else [command, "--help"])
print("heavy:", sorted({{"torch", "transformers"}} & set(sys.modules)))
"""
    out, _ = started("-c", code).communicate()
    assert out.endswith("heavy: []\n")


def test_a_command_that_is_none_is_refused_with_a_hint(capsys):
    error, hint = refused(capsys, "fnid", code=2)
    assert "fnid" in error
    assert "--help" in hint


@pytest.mark.parametrize(
    "arguments",
    [
        ["find", "--nonsense"],
        ["score"],
        ["known", "a", "b"],
        ["find", "--windows", "many"],
        ["find", "--windows", "-1"],
    ],
)
def test_a_command_line_that_is_none_ends_with_code_2(arguments, capsys):
    refused(capsys, *arguments, code=2)


@pytest.mark.parametrize("group", [[], ["lab"], ["adapt"]])
def test_a_group_without_a_command_prints_its_help_and_no_error(group, capsys):
    assert run(group) == 0
    shown = capsys.readouterr()
    assert "Usage:" in shown.out
    assert shown.err == ""


def test_the_version_is_printed(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"superweights {superweights.__version__}\n"


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(1, "window", "1 window"), (2048, "token", "2,048 tokens"), (0, "mass", "0 masses")],
)
def test_things_are_counted_as_english_counts_them(number, noun, said):
    assert counted(number, noun) == said


def test_no_sentence_of_ours_counts_windows_without_regard_to_one():
    rooms = Path(superweights.__file__).parent
    for path in (*rooms.glob("cli/*.py"), *rooms.glob("reports/*.py")):
        assert not re.search(r"\} (windows|passages|prompts|runs|records)\b", path.read_text()), path


# --- find -----------------------------------------------------------------------------------------------


def test_find_prints_a_line_of_json_for_each_candidate(planted, capsys):
    folder, address = planted
    assert run(["find", str(folder), "--json"]) == 0
    shown = capsys.readouterr()
    rows = {row["address"]: row for row in map(json.loads, shown.out.splitlines())}
    row = rows[address]
    number = int(address[:-1].split("[")[1].split(",")[0])
    assert row["out_channel"] == number
    assert row["verdict"] in ("critical", "joint", "partial", "benign", "undecided")
    assert row["spike_in"] * row["value"] == pytest.approx(row["dominance"] * row["spike_out"], rel=1e-4)
    assert set(row["effect"]) >= {"value", "unit", "standard_error"}
    assert row["effect"]["unit"] == "nats/token"
    assert row["effect"]["standard_error"] > 0
    assert str(SuperWeight.from_json(row).address) == address


def test_find_prints_a_table_that_names_the_weight_and_the_verdict(planted, capsys, monkeypatch):
    """A pipe has room for every column."""
    folder, address = planted
    monkeypatch.delenv("COLUMNS", raising=False)
    assert run(["find", str(folder), "--all"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.strip().startswith(address)]
    assert line.split()[-1] in ("critical", "joint", "partial", "benign", "undecided")
    titles = next(line for line in out.splitlines() if line.strip().startswith("weight "))
    for title in (
        "value",
        "input spike",
        "output spike",
        "share of it",
        "loss without it",
        "at its mean",
        "verdict",
    ):
        assert title in titles
    assert "no tokenizer: searched and judged on random token ids." in out


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_gets_the_weight_the_loss_and_the_verdict_whole(
    planted, capsys, monkeypatch, width
):
    folder, address = planted
    monkeypatch.setattr(console, "data", Console(width=width, force_terminal=True, no_color=True))
    assert run(["find", str(folder), "--rounds", "0", "--all"]) == 0
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = [line.rstrip() for line in out.splitlines()]
    first = next(n for n, line in enumerate(lines) if line.strip().startswith("weight"))
    table = lines[first : lines.index("", first)]
    assert all(len(line) <= width for line in table)
    (line,) = [line for line in table if line.strip().startswith(address[:20])]
    assert re.search(r"[+-]\d\.\d+ ±\d\.\d+", line)
    assert line.split()[-1] in ("critical", "joint", "partial", "benign", "undecided")
    assert "role" not in table[0]


def test_find_writes_the_whole_record_to_a_file(worded, capsys, tmp_path):
    out = tmp_path / "found.json"
    assert run(["find", str(worded), "--windows", "2", "--rounds", "0", "--out", str(out), "--json"]) == 0
    record = Record.from_json(out.read_text())
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert record.findings["candidates"] == printed
    assert record.findings["conditions"]["confirmed_on"].startswith("embedded prose")
    assert record.inputs["name"] == str(worded)
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


# --- colour, disks, interruptions -----------------------------------------------------------------------


@pytest.mark.parametrize(("no_color", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_respected_where_colours_would_be_shown(no_color, coloured):
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"FORCE_COLOR": "1"} | no_color
    process = started("-m", "superweights", "find", "--nonsense", env=environment)
    _, err = process.communicate()
    assert process.returncode == 2
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", err)) == coloured


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "The disk is full"), (errno.EACCES, "{out} may not be written: Permission denied.")],
)
@pytest.mark.parametrize("before", [None, "what was there"])
def test_a_write_that_fails_leaves_the_file_as_it_was(
    worded, capsys, monkeypatch, tmp_path, number, sentence, before
):
    out = tmp_path / "found.json"
    if before is not None:
        out.write_text(before)

    def fail(_source, target):
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(os, "replace", fail)
    search = ["--windows", "0", "--rounds", "0"]
    error, _ = refused(capsys, "find", str(worded), *search, "--out", str(out))
    assert error.startswith(f"error: {sentence.format(out=out)}")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == (
        {out.name: before} if before else {}
    )


def test_a_place_that_cannot_be_written_is_said_before_the_search(planted, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "superweights.checkpoint.open_checkpoint", lambda *_, **__: pytest.fail("it searched")
    )
    for out in (tmp_path, tmp_path / "absent" / "found.json"):
        error, _ = refused(capsys, "find", str(planted[0]), "--out", str(out))
        assert str(out) in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["known"], ["known", "--json"], ["known", "llama-7b", "--json"]])
def test_a_full_disk_behind_stdout_ends_with_a_sentence(arguments):
    with open("/dev/full", "w") as full:
        process = started("-m", "superweights", *arguments, stdout=full)
        _, err = process.communicate()
    assert process.returncode == 1
    error, hint = err.splitlines()
    assert error == "error: The disk is full."
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_exit_code_says_which_signal_ended_it(number, code, monkeypatch, capsys):
    monkeypatch.setattr("superweights.verbs.known.known", lambda *_, **__: os.kill(os.getpid(), number))
    assert run(["known"]) == code
    assert "nothing was left half-written" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_mistake_of_ours():
    """As in `superweights known --json | head -1`, told by the exit code alone."""
    process = started("-m", "superweights", "known", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


_SLOW = """
import sys, time
from superweights.stream.blocks import BlockStream
fetch = BlockStream._fetch

def slowly(*arguments):
    print("running", file=sys.stderr, flush=True)
    time.sleep(60)
    fetch(*arguments)

BlockStream._fetch = slowly
from superweights.cli import main
main(sys.argv[1:])
"""


def test_an_interrupted_search_ends_with_code_130_and_leaves_nothing(planted, tmp_path):
    out = tmp_path / "found.json"
    process = started("-c", _SLOW, "find", str(planted[0]), "--out", str(out))
    assert process.stderr is not None
    assert process.stderr.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    shown, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted: nothing was left half-written.\n"
    assert shown == ""
    assert list(tmp_path.iterdir()) == []


# --- checkpoints that cannot be searched ----------------------------------------------------------------


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def nothing(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def no_weights(folder: Path) -> None:
    for path in [*shards(folder), *folder.glob("*.index.json")]:
        path.unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def a_missing_shard(folder: Path) -> None:
    shards(folder)[1].unlink()


def a_short_shard(folder: Path) -> None:
    path = shards(folder)[1]
    path.write_bytes(path.read_bytes()[:-100])


def a_corrupt_shard(folder: Path) -> None:
    path = shards(folder)[1]
    path.write_bytes(path.read_bytes()[:8] + b"\xff" * 64 + path.read_bytes()[72:])


def an_absurd_header(folder: Path) -> None:
    path = shards(folder)[1]
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])


def an_absurd_shape(folder: Path) -> None:
    path = shards(folder)[1]
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**62]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def an_index_of_absent_tensors(folder: Path) -> None:
    (path,) = folder.glob("*.index.json")
    index = json.loads(path.read_text())
    index["weight_map"]["model.layers.9.mlp.down_proj.weight"] = shards(folder)[0].name
    path.write_text(json.dumps(index))


def edited_config(**changes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def weights_of(value: float) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for path in shards(folder):
            tensors = load_file(path)
            for name, tensor in tensors.items():
                if name.endswith("layers.1.mlp.up_proj.weight"):
                    tensor[3, 5] = value
            save_file(tensors, path, metadata={"format": "pt"})

    return edit


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty folder": (nothing, "is empty"),
    "config without weights": (no_weights, "has a config.json but no weights"),
    "weights without config": (no_config, "has no config.json"),
    "missing shard": (a_missing_shard, "lacks model-00002"),
    "truncated shard": (a_short_shard, "of a file of"),
    "corrupt shard": (a_corrupt_shard, "its header does not begin with {"),
    "absurd header": (an_absurd_header, "4,611,686,018,427,387,904 bytes"),
    "absurd shape": (an_absurd_shape, "the shape of 'a' is impossible"),
    "index of absent tensors": (an_index_of_absent_tensors, "layers.9"),
    "NaN": (weights_of(float("nan")), "NaN or infinity at model.layers.1.mlp"),
    "infinity": (weights_of(float("inf")), "NaN or infinity at model.layers.1.mlp"),
    "unknown architecture": (edited_config(model_type="nonesuch"), "nonesuch"),
    "config of another model": (edited_config(hidden_size=128), "has shape"),
    "config that is no model": (edited_config(num_attention_heads=-1), "LlamaConfig"),
    "more layers than tensors": (edited_config(num_hidden_layers=7), "lacks"),
    "more layers than any model": (edited_config(num_hidden_layers=10**9), "num_hidden_layers"),
    "no layers": (edited_config(num_hidden_layers=0), "no blocks"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_that_cannot_be_searched_is_refused_in_one_sentence(case, planted, capsys, tmp_path):
    damage, word = BROKEN[case]
    folder = Path(shutil.copytree(planted[0], tmp_path / "model"))
    damage(folder)
    capsys.readouterr()  # what transformers says while it saves
    error, _ = refused(capsys, "find", str(folder), "--json")
    assert word in error


@pytest.mark.parametrize("name", ["absent/path/to", "./absent", "absent.gguf", ""])
def test_a_path_that_is_not_there_is_refused(name, capsys):
    error, _ = refused(capsys, "find", name)
    assert "no file or folder" in error


# --- requests that cannot be met ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--mode", "fast"], "'fast'"),
        (["--length", "300"], "context of 256"),
        (["--windows", "100000"], "too few"),
        (["--dtype", "int4"], "int4"),
        (["--device", "abacus"], "abacus"),
        (["--text", "{tmp}/absent.txt"], "There is no file"),
        (["--text", "{tmp}"], "is a folder"),
        (["--text", "{tmp}/empty.txt"], "holds no text"),
        (["--text", "{tmp}/binary.txt"], "not UTF-8"),
        (["--text", "{tmp}/zeros.txt"], "binary"),
        (["--text", "{tmp}/short.txt"], "too few"),
        (["--prompt", ""], "prompt"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_in_one_sentence(options, word, worded, capsys, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "zeros.txt").write_bytes(bytes(64))
    (tmp_path / "short.txt").write_text("Too short.")
    error, _ = refused(capsys, "find", str(worded), *(part.format(tmp=tmp_path) for part in options))
    assert word in error


def test_a_prompt_longer_than_the_context_is_cut_to_it(capsys, tmp_path):
    """Learned positions end where the context ends: one token more would be an index outside a table."""
    families.save_tiny("gpt2", tmp_path, families.tiny_model("gpt2", n_positions=8))
    assert run(["find", str(tmp_path)]) == 0
    assert "traceback" not in capsys.readouterr().err.lower()


@pytest.mark.parametrize(
    "option", ["--out {tmp}/a", "--all", "--device-map auto", "--tensor-parallel", "--budget 2"]
)
def test_the_published_procedure_passes_no_option_over(planted, capsys, tmp_path, option):
    error, _ = refused(
        capsys, "find", str(planted[0]), "--mode", "reference", *option.format(tmp=tmp_path).split()
    )
    assert f"{option.split()[0]} is about a search, and --mode reference" in error


def test_the_published_procedure_says_what_it_needs(planted, capsys):
    error, hint = refused(capsys, "find", str(planted[0]), "--mode", "reference")
    assert "no tokenizer" in error
    assert "--mode reference" in hint
