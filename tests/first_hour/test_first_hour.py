"""The first hour: the docs' commands in terminals and pipes, and every page in a browser, as a new user meets them."""

from __future__ import annotations

import pytest
from lines import PAGES, lines_of
from stand import standing
from terminal import Screen, in_pipe, in_terminal
from walk import walk

pytestmark = pytest.mark.tiny

# Pages whose commands take a second each on a tiny model; `python tests/first_hour/walk.py` walks all of them.
QUICK = ("known", "scan", "test")


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    with standing(tmp_path_factory.mktemp("stand")) as folder:
        yield folder


@pytest.mark.parametrize("name", QUICK)
def test_the_commands_of_a_page_are_whole_in_every_width(name, stand):
    page = next(page for page in PAGES if page.stem == name)
    assert [(line.told, faults) for line, faults in walk(lines_of(page), stand) if faults] == []


def test_what_a_person_may_get_wrong_is_a_sentence_and_a_hint(stand):
    wrong = {
        ("find", "no/such/folder"): 1,
        ("ablate", "embedded", "model.layers.0.mlp.down_proj.weight[5, 999]"): 1,
        ("score", "embedded", "--text", "nothing.txt"): 1,
        ("find", "embedded", "--device", "tpu"): 1,
        ("show", "nothing.json"): 1,
        ("finde",): 2,
        ("find", "--nothing"): 2,
    }
    for arguments, code in wrong.items():
        for shown in (in_terminal(arguments, 80, stand), in_pipe(arguments, stand)):
            said = shown.out + shown.err
            assert shown.code == code, said
            assert "error:" in said, said
            assert "hint:" in said, said
            assert "Traceback" not in said, said
            assert shown.breaks == (), said


def test_a_screen_tells_what_its_edge_broke():
    screen = Screen(20)
    screen.feed("a bar\r\x1b[2Kperplexity is 12345.678 now\r\n" + "x" * 30 + "12\r\n")
    assert screen.text().splitlines()[0] == "perplexity is 12345."
    assert screen.breaks() == ("12345.678",)


def test_every_page_has_its_commands_read():
    told = {line.told for page in PAGES for line in lines_of(page)}
    assert len(told) > 60
    assert all(line.arguments for page in PAGES for line in lines_of(page))
