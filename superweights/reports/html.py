"""A report as one HTML file that asks the network for nothing."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from importlib import resources

from superweights.record import to_json_line
from superweights.reports.blocks import Beside, Block, Cell, Chart, Film, LayerMap, Paragraph, Section, Table
from superweights.reports.film import film_html
from superweights.reports.markdown import shown

# `model.layers.11.mlp.down_proj.weight[507, 1229]`, and either part of it alone; `1e-08`, which has a hyphen in it.
_ADDRESS = re.compile(
    r"(?P<path>\w+(?:\.\w+)*|)(?P<index>\[[\d:]+(?:, ?[\d:]+)*\])|(?P<name>\w+(?:\.\w+){2,})"
    r"|(?P<number>\b\d[\d.]*e[+-]\d+\b)"
)


def to_html(title: str, sections: Sequence[Section]) -> str:
    """The page: no text of a model or file can run in it, and nothing can be loaded."""
    charts = _Charts()
    body = "".join(_section(section, number, charts) for number, section in enumerate(sections))
    links = "".join(f'<a href="#s{n}">{worded(section.title)}</a>' for n, section in enumerate(sections))
    head = f'<h1>{worded(title)}</h1><nav aria-label="Sections">{links}</nav>'
    body += f'<script type="application/json" id="charts">{_data(charts.kept)}</script>'
    filmed = any(isinstance(block, Film) for section in sections for block in section.blocks)
    scripts = ("uPlot.iife.min.js", "charts.js", "fit.js", *(["film.js"] if filmed else []))
    styles = ("uPlot.min.css", "page.css", *(["film.css"] if filmed else []))
    return framed(title, head, body, scripts, styles)


def framed(title: str, head: str, body: str, scripts: Sequence[str], styles: Sequence[str]) -> str:
    """A whole page around `head` and `body` (HTML, escaped already), with the assets of these names inside it.

    Its content security policy names its one script by hash and allows nothing else.
    """
    script, style = "\n".join(map(_asset, scripts)), "\n".join(map(_asset, styles))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f"<header>{head}</header><main>{body}</main><script>{script}</script></body></html>\n"
    )


class _Charts:
    """The charts of a page, in the order in which its script draws them."""

    def __init__(self) -> None:
        self.kept: list[dict] = []

    def add(self, chart: Chart) -> int:
        self.kept.append(asdict(chart))
        return len(self.kept) - 1


def _section(section: Section, number: int, charts: _Charts) -> str:
    blocks = "".join(_block(block, charts) for block in section.blocks)
    return f'<section id="s{number}"><h2>{worded(section.title)}</h2>{blocks}</section>'


def _block(block: Block, charts: _Charts) -> str:
    if isinstance(block, Paragraph):
        return f"<p{' class=verdict' if block.strong else ''}>{worded(block.text)}</p>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Chart):
        number = charts.add(block)
        table = block.table()
        return (
            f'<figure><figcaption>{worded(block.title)} <span class="unit">{escape(block.y_title)}</span></figcaption>'
            f'<div class="chart" id="chart{number}" role="img" tabindex="0" aria-label="{escape(block.says)}"></div>'
            f"<details><summary>Data</summary>{_table(table)}<p>{csv_link(table)}</p></details></figure>"
        )
    if isinstance(block, LayerMap):
        return _map(block)
    if isinstance(block, Film):
        return film_html(block)
    assert isinstance(block, Beside)
    sides = "".join(
        f"<div><h3>{worded(name)}</h3><p><b>{worded(block.prompt)}</b>{worded(text)}</p></div>"
        for name, text in zip(block.names, block.texts, strict=True)
    )
    return f'<div class="beside">{sides}</div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{worded(name)}</th>' for name in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, table.columns, row))}</tr>" for row in table.rows)
    return (
        f'<p class="caption">{worded(table.caption)}</p><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(table.caption)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(title: str, cell: Cell) -> str:
    return f'<td{_kind(cell)} data-title="{escape(title)}">{worded(shown(cell))}</td>'


def worded(text: str) -> str:
    """`text` as HTML in which an address goes to a new line between its parts only, its index and a number never."""
    parts, end = [], 0
    for found in _ADDRESS.finditer(text):
        if found["number"]:
            parts += [escape(text[end : found.start()]), f'<span class="place">{found["number"]}</span>']
            end = found.end()
            continue
        path = escape(found["path"] or found["name"] or "").replace(".", ".<wbr>")
        place = f'<span class="place">{escape(found["index"] or "")}</span>'
        between = "<wbr>" if path and found["index"] else ""
        parts += [escape(text[end : found.start()]), f'<span class="address">{path}{between}{place}</span>']
        end = found.end()
    return "".join(parts) + escape(text[end:])


def _kind(cell: object) -> str:
    if isinstance(cell, int | float):
        return " class=number"
    known = ("critical", "joint", "partial", "benign", "intact", "bent", "broken")
    return f' class="{cell}"' if cell in known else ""


def csv_link(table: Table) -> str:
    """A link that holds the data."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    held = base64.b64encode(file.getvalue().encode()).decode()
    return f'<a download="data.csv" href="data:text/csv;base64,{held}">CSV</a>'


def _map(block: LayerMap) -> str:
    """Layers as columns, a dot for each spot; the largest dots on the ground so that small ones stay visible."""
    left, width, height, bottom = 10, 900, 262, 226
    step = (width - left - 10) / max(block.layers, 1)
    column = f'y="8" width="{max(step - 2, 1):.1f}" height="{bottom - 8}" rx="3" class="layer"'
    parts = [f'<rect x="{left + n * step:.1f}" {column}/>' for n in range(block.layers)]
    every = max(1, block.layers // 16)
    fifth = every * max(1, round(block.layers / every / 5))  # about five numbers are left on a phone
    for n in range(0, block.layers, every):
        parts.append(
            f'<text x="{left + (n + 0.5) * step:.1f}" y="{bottom + 26}" text-anchor="middle"'
            f"{' class=minor' if n % fifth else ''}>{n}</text>"
        )
    for spot in sorted(block.spots, key=lambda each: -each.weight):
        x = left + (spot.layer + 0.5) * step
        y = bottom - 6 - min(max(spot.height, 0.0), 1.0) * (bottom - 22)
        place = f'cx="{x:.1f}" cy="{y:.1f}" r="{4 + 12 * spot.weight**0.5:.1f}"'
        told = f"<title>{escape(spot.label)}</title>"
        parts.append(f'<circle {place} class="{escape(spot.kind)}" tabindex="0">{told}</circle>')
    kinds = [
        kind
        for kind in ("critical", "joint", "partial", "benign")
        if any(s.kind == kind for s in block.spots)
    ]
    key = "".join(f'<span><i class="{kind}"></i>{kind}</span>' for kind in kinds)
    axes = f"layers from left to right, {block.height_title} upwards"
    words = f"{axes}; the larger a dot, the more is lost without the weight"
    drawing = f'<svg class="map" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(block.says)}">'
    return (
        f'<figure><figcaption>{escape(block.title)}: {escape(words)} <span class="key">{key}</span></figcaption>'
        f'<div class="scroll">{drawing}{"".join(parts)}</svg></div></figure>'
    )


def _data(charts: list[dict]) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(json.loads(to_json_line(charts)))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(name: str) -> str:
    return (resources.files("superweights.reports") / "assets" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
