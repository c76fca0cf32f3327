"""The residual stream's largest value after each layer, as an SVG picture, from a record of `superweights find --out`.

superweights find --out find.json
python examples/draw_residual.py find.json docs/residual.svg
"""

from __future__ import annotations

import html
import json
import math
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 300, 64, 48, 28
COLOURS = {"critical": "#c2255c", "partial": "#e67700", "benign": "#868e96"}


def draw(findings: dict) -> str:
    """The picture: one bar per layer on a logarithmic scale, the proven weights above the layer they stand in."""
    layers = findings["layers"]
    top = math.ceil(math.log10(max(layer["peak"] for layer in layers)))
    step = (WIDTH - LEFT - 16) / len(layers)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - max(0.0, math.log10(max(value, 1))) / top * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<title>Largest residual value after each layer</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for power in range(top + 1):
        line = y(10**power)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{line}" y2="{line}" stroke="#e9ecef"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{line + 4}" text-anchor="end" fill="#495057">{10**power:,}</text>'
        )
    for n, layer in enumerate(layers):
        x = LEFT + n * step
        bar = y(layer["peak"])
        height = HEIGHT - BOTTOM - bar
        place = f'x="{x + 2:.1f}" y="{bar:.1f}" width="{step - 4:.1f}" height="{height:.1f}"'
        parts.append(f'<rect {place} fill="#4c6ef5"/>')
        parts.append(
            f'<text x="{x + step / 2:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" fill="#495057">{n}</text>'
        )
        marks = [c for c in findings["candidates"] if c["layer"] == n]
        for i, mark in enumerate(sorted(marks, key=lambda c: list(COLOURS).index(c["verdict"]))):
            label = html.escape(f"{mark['address']}: {mark['verdict']}, {mark['role']}")
            parts.append(
                f'<circle cx="{x + step / 2:.1f}" cy="{bar - 8 - 9 * i:.1f}" r="4" fill="{COLOURS[mark["verdict"]]}">'
                f"<title>{label}</title></circle>"
            )
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 10}" fill="#495057">layer</text>')
    for i, (verdict, colour) in enumerate(COLOURS.items()):
        x = LEFT + 60 + 90 * i
        parts.append(f'<circle cx="{x}" cy="{HEIGHT - 14}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 10}" y="{HEIGHT - 10}" fill="#495057">{verdict}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    record, picture = map(Path, sys.argv[1:3])
    picture.write_text(draw(json.loads(record.read_text())["findings"]))
