"""Records to one page that a person reads: HTML that needs nothing but itself, Markdown, or JSON. No torch."""

from superweights.report.reading import read_records
from superweights.report.rendering import FORMATS, render

__all__ = ["FORMATS", "read_records", "render"]
