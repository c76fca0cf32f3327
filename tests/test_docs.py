"""README and docs: their commands exist, their links lead somewhere, their Python runs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from small import embedded_folder

import superweights
from superweights.cli import app, run

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from docs_outputs import is_quick, regenerated  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "LOG.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.unit


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_is_shown_exists(page):
    commands = {each.name for each in (*app.registered_commands, *app.registered_groups)}
    shown = set(re.findall(r"^\s*(?:\$ )?superweights ([a-z]+)", "\n".join(blocks(page, "sh")), re.MULTILINE))
    shown |= set(re.findall(r"`superweights ([a-z]+)", page.read_text()))
    assert shown <= commands


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_has_an_empty_place_for_figures(page):
    assert not re.findall(r"<!-- (\w+): begin -->\s*<!-- \1: end -->", page.read_text())


def test_every_command_is_documented_with_an_example():
    pages = "\n".join(page.read_text() for page in PAGES)
    assert [c.name for c in app.registered_commands if f"superweights {c.name}" not in pages] == []


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert (
        set(re.findall(r"^make (\w+)", "\n".join(blocks(ROOT / "README.md", "sh")), re.MULTILINE)) <= targets
    )


def test_the_python_of_every_page_is_what_pyright_would_write(tmp_path):
    """It compiles, what it imports is there, and it is called as its types say. The blocks of a page are one script."""
    pyright = pytest.importorskip("pyright", reason="pyright is not installed")
    for page in PAGES:
        code = "\n".join(blocks(page, "python"))
        (tmp_path / f"{page.stem}.py").write_text(code)
        compile(code, page.name, "exec")
    done = subprocess.run(
        [sys.executable, "-m", pyright.__name__, "--outputjson", "--pythonpath", sys.executable, str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    said = json.loads(done.stdout)["generalDiagnostics"]
    wrong = [f"{Path(each['file']).stem}: {each['message']}" for each in said if each["severity"] == "error"]
    assert wrong == []


# Commands that hold or write something and measure nothing.
NO_MEASURE = {"known", "recipe", "peel", "attach", "show", "report", "explore", "push", "estimate"}


def test_what_the_readme_says_of_all_commands_is_so():
    """ "Commands that measure take --json and --out, and each is a function of the same name." """
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        taken = {option for each in command.params for option in each.opts}
        if not hasattr(command, "commands"):
            assert hasattr(superweights, name), name
            assert name in NO_MEASURE or {"--json", "--out"} <= taken, name


def quick_pages() -> list[Path]:
    shown = {page: "\n".join(blocks(page, "console")) for page in PAGES}
    return [
        page for page in PAGES if re.search(r"^\$ superweights (known|recipe) ", shown[page], re.MULTILINE)
    ]


@pytest.mark.real
@pytest.mark.parametrize("page", quick_pages(), ids=lambda p: p.stem)
def test_what_a_page_shows_below_a_quick_command_is_what_it_prints(page, tmp_path, monkeypatch, capsys):
    """Written anew by `python benchmarks/docs_outputs.py`."""
    embedded_folder()
    monkeypatch.chdir(tmp_path)

    def printed(command: str) -> str:
        assert run(shlex.split(command)[1:]) == 0
        return capsys.readouterr().out

    text = page.read_text(encoding="utf-8")
    assert regenerated(text, printed, is_quick) == text


def test_outputs_are_written_below_their_commands_and_nowhere_else():
    page = "a\n```console\n$ one \\\n  more\nold\n\n$ two\n\nold\n```\n```sh\none\n```\n```console\n$ one\n...\n```\n"
    new = regenerated(
        page, lambda command: f"\nnew of {command}\n\n", lambda command: command.startswith("one")
    )
    assert new == page.replace("more\nold", "more\nnew of one more", 1)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.stem)
def test_a_page_that_shows_a_command_shows_its_python(page):
    verbs = {command.name for command in app.registered_commands}
    shown = "\n".join([*blocks(page, "sh"), *blocks(page, "console")])
    asked = set(re.findall(r"^\s*(?:\$ )?superweights ([a-z]+)", shown, re.MULTILINE)) & verbs
    assert not asked or blocks(page, "python")


@pytest.mark.unit
def test_the_python_about_the_index_runs(capsys):
    run_page(ROOT / "docs" / "known.md")
    assert "model.layers.1.mlp.down_proj.weight[1764, 1710]" in capsys.readouterr().out


@pytest.mark.tiny
@pytest.mark.parametrize("page", ["quantize", "test"])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    embedded_folder()
    monkeypatch.chdir(tmp_path)
    run_page(ROOT / "docs" / f"{page}.md")


def run_page(page: Path) -> None:
    """Run the Python blocks of a page, one after the other."""
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)


@pytest.mark.real
def test_the_python_of_the_readme_runs(capsys):
    embedded_folder()
    for code in blocks(ROOT / "README.md", "python"):
        exec(compile(code, "README.md", "exec"), {})
    assert "critical" in capsys.readouterr().out
