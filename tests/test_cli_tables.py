"""Tables of the command line: nothing is cut or broken, in a terminal of any usual width and in a pipe."""

from __future__ import annotations

import re
from pathlib import Path

import families
import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

import superweights
from superweights.cli import console, run
from superweights.record import Score
from superweights.tables.numbers import plain, with_error
from superweights.tables.page import Parted, print_page, print_table, table

pytestmark = pytest.mark.tiny

ADDRESS = "model.language_model.layers.117.block_sparse_moe.experts.117.down_proj.weight[16383, 57343]"
CELLS = ("-123,456.78 ±0.12", "17.83 ±0.44", "+1.2345 ±0.0021", "99.9% ±0.1", "critical", "in packed")
TITLES = ("perplexity", "loss, nats", "KL, nats", "same top", "verdict", "role")
# Bare widths are terminals; None is a pipe, which has no width.
WIDTHS = (40, 80, 120, 160, None)


@pytest.fixture(params=WIDTHS)
def width(request, monkeypatch) -> int | None:
    """Stdout as a terminal of this width, or as a pipe."""
    monkeypatch.delenv("COLUMNS", raising=False)
    at = {"width": request.param, "force_terminal": True} if request.param else {"force_terminal": False}
    monkeypatch.setattr(console, "data", Console(highlight=False, color_system=None, **at))
    return request.param


def test_every_number_and_address_stays_whole(width, capsys):
    made = table("weight", *TITLES)
    made.add_row(plain(ADDRESS), *CELLS)
    print_table(made, console.data)
    lines = capsys.readouterr().out.splitlines()
    for cell in (ADDRESS, *CELLS, *TITLES):
        assert any(cell in line for line in lines), cell
    if width is None:  # a row in one line, as programs read it
        assert any(ADDRESS in line and CELLS[-1] in line for line in lines)
    else:
        assert all(len(line.rstrip()) <= width or ADDRESS in line for line in lines)


def test_rows_of_bare_numbers_keep_their_title_when_they_are_stacked(monkeypatch, capsys):
    monkeypatch.setattr(console, "data", Console(width=30, force_terminal=True, color_system=None))
    made = table("layer", *TITLES, right=True)
    made.add_row("7", *CELLS)
    print_table(made, console.data)
    assert capsys.readouterr().out.startswith("layer 7\n")


def test_a_table_of_many_numbers_is_several_with_the_rows_names_in_each(width, capsys):
    made = table("design", *(f"score {n}" for n in range(30)))
    made.add_row("control", *(f"{n},{n:03}.{n}" for n in range(100, 130)))
    print_page([Parted(made)], console.data)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("control")]
    assert " ".join(rows).replace("control", "").split() == [f"{n},{n:03}.{n}" for n in range(100, 130)]
    assert len(rows) == sum(line.startswith("design") for line in lines)
    assert len(rows) == 1 if width is None else all(len(line.rstrip()) <= width for line in lines)


def test_a_title_is_not_wrapped_to_its_table(width, capsys):
    made = Table(title="Rows that stand out from their layer, and the entry that carries each")
    made.add_column("n")
    made.add_row("1")
    print_table(made, console.data)
    assert capsys.readouterr().out.startswith(
        "Rows that stand out from their layer, and the entry that carries each\n"
    )


def test_commands_show_whole_addresses_and_numbers(width, capsys, tmp_path):
    families.save_tiny("llama", tmp_path)
    for command in (["known"], ["scan", str(tmp_path), "--top", "3", "--spectrum"]):
        assert run(command) == 0
        shown = capsys.readouterr().out
        assert "…" not in shown
        assert re.search(r"model\.layers\.\d+\.[\w.]+\.weight\[\d+, \d+\]", shown)


def test_sentences_are_broken_between_words_only(width, capsys):
    told = f"without [bold]{console.plain(ADDRESS)}[/] perplexity is 12,345.678 ± 9.25, "
    print_page(
        [told * 3, "superweights find embedded --explain " + console.plain(f"'{ADDRESS}'")], console.data
    )
    lines = capsys.readouterr().out.splitlines()
    whole = Text.from_markup(told * 3).plain
    assert " ".join(lines[:-1]).split() == whole.split(), "every word, in order"
    for line in lines[:-1]:
        assert width is None or len(line) <= max(width, len(ADDRESS))
        assert line.count("12,345.678") == line.count("± 9.25,"), "a number and its error stay together"
    assert lines[-1].startswith("superweights find embedded --explain"), "a command is to be copied whole"
    assert lines[-1].endswith(f"'{ADDRESS}'")


def test_no_number_of_a_table_is_minus_zero():
    """What rounds to zero has no sign: every format of a float in the tables says so."""
    folder = Path(superweights.__file__).parent / "tables"
    for path in folder.glob("*.py"):
        assert not re.findall(r"[\w\])]:[+]?,?\.\d+[gf%]}", path.read_text()), path
    assert with_error(Score("loss rise", -0.0001, "nats/token", 8, 0.02), "+") == "+0.000 ±0.020"
    assert with_error(Score("value", -0.0, "", 1)) == "0"


def test_no_room_but_the_page_prints_a_table_by_itself():
    """Rules for narrow terminals and pipes have one owner."""
    package = Path(superweights.__file__).parent
    for path in [*(package / "cli").glob("*.py"), *(package / "tables").glob("*.py")]:
        source = path.read_text()
        if path.name != "page.py":
            assert "Console(" not in source or path.name == "console.py", path
            assert 'overflow="' not in source or path.name == "lab.py", path
