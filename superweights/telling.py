"""How a result is told in words, asked from below: `print` of a record asks here, and whoever can tell says so here.

The rooms that hold results stand below the one that draws tables. `import superweights` says who tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from typing import Any

_tellers: list[Callable[[Any], str]] = []


def tell_by(teller: Callable[[Any], str]) -> None:
    """From now on `told` asks `teller`: a record in, its lines and tables as plain text out."""
    _tellers[:] = [teller]


def told(result: Any) -> str:
    """`result` in words; its `repr` where nobody tells."""
    return _tellers[0](result) if _tellers else repr(result)


def html_table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table; every cell is escaped."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
