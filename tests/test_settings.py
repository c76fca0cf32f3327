"""Defaults from a file and from the environment: what is typed goes first, and what nothing has is refused by name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

import superweights
from superweights.cli import app, run
from superweights.settings import defaults, file_of

pytestmark = pytest.mark.unit


@pytest.fixture
def program():
    return typer.main.get_command(app)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_options_by_command_and_for_all_that_have_them(program, here):
    (here / "superweights.toml").write_text(
        'device = "cpu"\n[quantize]\nembeddings = "int8"\nformat = "dense"\nkeep = "none"\n[lab.run]\nworkers = 2\n'
    )
    made = defaults(program, file_of(None), {})
    assert made["quantize"] == {"device": "cpu", "embeddings": "int8", "format_": "dense", "keep": ["none"]}
    assert made["find"] == {"device": "cpu"}
    assert made["lab"]["run"]["workers"] == 2
    assert "device" not in made.get("show", {})


def test_the_environment_goes_before_the_file_and_a_command_before_all(program, here):
    (here / "other.toml").write_text('device = "cpu"\nseed = 1\n')
    environment = {
        "SUPERWEIGHTS_CONFIG": "read elsewhere",
        "SUPERWEIGHTS_DEVICE": "cuda",
        "SUPERWEIGHTS_FIND_DEVICE": "mps",
        "SUPERWEIGHTS_TOKEN": "secret",
        "PATH": "/bin",
    }
    made = defaults(program, here / "other.toml", environment)
    assert made["find"]["device"] == "mps"
    assert made["find"]["seed"] == 1
    assert made["quantize"]["device"] == "cuda"


REFUSED = {
    "windwos = 3": ("windwos", "the nearest is windows"),
    "[find]\nformat = 'gguf'": ("find.format", "--format"),
    "[quantise]\ngrid = 'int4'": ("quantise", "the nearest is quantize"),
    "trust-remote-code = true": ("trust-remote-code", "type --trust-remote-code each time"),
    "[find]\nallow_pickle = true": ("allow_pickle", "type --allow-pickle each time"),
    "device = [": ("is no TOML", "device ="),
    "[quantize]\ngrid = ['a', 'b']": ("takes one value", "without brackets"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_option_is_refused_by_name(text, here, capsys):
    (here / "superweights.toml").write_text(text)
    assert run(["known"]) == 1
    said = capsys.readouterr().err
    for words in REFUSED[text]:
        assert words in said
    assert "Traceback" not in said


def test_an_unknown_variable_and_an_absent_file_are_refused(here, monkeypatch, capsys):
    assert run(["--config", "none.toml", "known"]) == 1
    assert "There is no file none.toml" in capsys.readouterr().err
    monkeypatch.setenv("SUPERWEIGHTS_FIND_WINDWOS", "3")
    assert run(["known"]) == 1
    said = capsys.readouterr().err
    assert "SUPERWEIGHTS_FIND_WINDWOS" in said


def test_a_quotation_mark_that_is_not_closed_is_refused_by_name(here, monkeypatch, capsys):
    (here / "superweights.toml").write_text("""[known]\nindex = "'a b"\n""")
    assert run(["known"]) == 1
    assert "superweights.toml: known.index" in " ".join(capsys.readouterr().err.split())
    (here / "superweights.toml").unlink()
    monkeypatch.setenv("SUPERWEIGHTS_KNOWN_INDEX", "'a b")
    assert run(["known"]) == 1
    assert "SUPERWEIGHTS_KNOWN_INDEX" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SUPERWEIGHTS_BITS", "SUPERWEIGHTS_PLAN_BITS"])
def test_of_a_refused_value_that_was_not_typed_is_said_where_it_stands(name, here, monkeypatch, capsys):
    monkeypatch.setenv(name, "many")
    assert run(["plan", "embedded"]) == 2
    assert f"hint: it was not typed: it stands in {name}." in " ".join(capsys.readouterr().err.split())
    assert run(["plan", "embedded", "--bits", "lots"]) == 2
    assert "not typed" not in capsys.readouterr().err
    monkeypatch.delenv(name)
    (here / "superweights.toml").write_text("[plan]\nbits = 'many'\n")
    assert run(["plan", "embedded"]) == 2
    assert "it stands in the file of defaults" in capsys.readouterr().err


def test_the_file_is_the_one_named_or_the_one_here(here, monkeypatch):
    assert file_of(None) is None
    (here / "superweights.toml").touch()
    assert file_of(None) == Path("superweights.toml")
    monkeypatch.setenv("SUPERWEIGHTS_CONFIG", "mine.toml")
    assert file_of(None) == Path("mine.toml")
    assert file_of(Path("typed.toml")) == Path("typed.toml")


def test_what_is_typed_goes_before_what_is_configured(here, capsys):
    (here / "superweights.toml").write_text("[known]\njson = true\n")
    assert run(["known"]) == 0
    configured = capsys.readouterr()
    assert configured.out.startswith("{")
    assert "superweights.toml" in configured.err, "which file gave defaults is said"
    (here / "superweights.toml").write_text("[plan]\nbits = 'many'\n")
    assert run(["plan", "embedded"]) == 2
    assert "--bits" in capsys.readouterr().err


def test_every_variable_that_the_package_reads_for_itself_is_no_option(monkeypatch, capsys):
    folder = Path(superweights.__file__).parent
    read = set()
    for path in folder.rglob("*.py"):
        if path.name != "config.py":
            read |= _named(path)
    assert read >= {"SUPERWEIGHTS_CACHE", "SUPERWEIGHTS_NATIVE", "SUPERWEIGHTS_TOKEN"}
    for name in read:
        monkeypatch.setenv(name, "0")
    assert run(["known", "no-such-model"]) == 0, capsys.readouterr().err


def _named(path: Path) -> set[str]:
    """The variables that a file's code names; what its documentation says does not count."""
    texts = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and re.fullmatch(r"SUPERWEIGHTS_[A-Z]+", text)}
