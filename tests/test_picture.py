"""Pictures: well-formed SVG whose points stand where their numbers say."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from superweights.picture import Axis, Series, axis_of, heat_map, line_chart, svg

pytestmark = pytest.mark.unit


def parsed(*panels):
    return ElementTree.fromstring(svg(panels))


def points(panel) -> list[tuple[float, float]]:
    found = re.search(r'<polyline points="([^"]*)"', panel.body)[1]
    return [tuple(map(float, pair.split(","))) for pair in found.split()]


def test_an_axis_is_linear_or_logarithmic():
    assert Axis(0, 10, 0, 100).at(5) == 50
    assert Axis(1, 100, 0, 100, log=True).at(10) == pytest.approx(50)
    assert Axis(0, 10, 0, 100).at(99) == 100


def test_ticks_are_round_numbers_inside():
    assert Axis(0, 10, 0, 1).ticks() == [0, 2, 4, 6, 8, 10]
    assert Axis(1, 1e6, 0, 1, log=True).ticks() == [10.0**n for n in range(7)]
    assert axis_of([3, 3], 0, 1).low < 3 < axis_of([3, 3], 0, 1).high


def test_lines_stand_where_their_numbers_say():
    chart = line_chart("t", "x", "y", [Series("a", ((0, 0.0), (1, 1.0), (2, 2.0)))])
    (x0, y0), (x1, y1), (x2, y2) = points(chart)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y0 > y2, "up is larger"
    parsed(chart)


def test_a_logarithmic_chart_leaves_out_what_has_no_logarithm():
    chart = line_chart(
        "t", "x", "", [Series.over_layers("a", [0.0, 1.0, 10.0, 100.0, None, math.nan])], log=True
    )
    (_, y1), (_, y2), (_, y3) = points(chart)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.11)


def test_words_are_escaped_and_marks_are_drawn():
    chart = line_chart(
        "a < b & c", "x", "", [Series("<s>", ((0, 1.0), (1, 2.0)), (0.1, None))], marks={1: "born"}
    )
    words = "".join(parsed(chart).itertext())
    assert "a < b & c" in words
    assert "<s>" in words
    assert "born" in words


def test_nothing_to_draw_is_said():
    for panel in (line_chart("t", "x", "y", [Series("a", ())]), heat_map("t", "x", "y", [[None, math.nan]])):
        assert "nothing to draw" in "".join(parsed(panel).itertext())


def test_a_heat_map_has_a_cell_for_each_number_and_tells_signs_apart():
    panel = heat_map("t", "x", "y", [[0.0, 1.0], [None, -1.0]])
    cells = [rect.get("fill") for rect in parsed(panel).iter("{http://www.w3.org/2000/svg}rect")][1:4]
    assert cells[0] == "#ffffff"
    assert len(set(cells)) == 3
