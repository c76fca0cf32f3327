"""Records to one page that a person reads: HTML that needs nothing but itself, Markdown, or JSON. No torch."""

from superweights.reports.index import index_card, index_page
from superweights.reports.reading import read_records
from superweights.reports.rendering import FORMATS, render

__all__ = ["FORMATS", "index_card", "index_page", "read_records", "render"]
