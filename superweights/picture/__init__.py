"""Pictures of results: plain SVG, written without a library. Lines over numbers, and heat maps.

>>> chart = line_chart("squares", "x", "x²", [Series("x²", ((0, 0), (1, 1), (2, 4)))])
>>> svg([chart]).startswith("<svg")
True
"""

from superweights.picture.axis import COLOURS, Axis, axis_of
from superweights.picture.heat import heat_map
from superweights.picture.lines import Series, line_chart
from superweights.picture.page import Panel, svg

__all__ = ["COLOURS", "Axis", "Panel", "Series", "axis_of", "heat_map", "line_chart", "svg"]
