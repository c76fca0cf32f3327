"""README and docs: their commands exist, their links lead somewhere, their Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small import embedded_folder

from superweights.cli import app

ROOT = Path(__file__).parent.parent
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
    commands = {command.name for command in (*app.registered_commands, *app.registered_groups)}
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


@pytest.mark.real
def test_the_python_of_the_readme_runs(capsys):
    embedded_folder()
    for code in blocks(ROOT / "README.md", "python"):
        exec(compile(code, "README.md", "exec"), {})
    assert "critical" in capsys.readouterr().out
