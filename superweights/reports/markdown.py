"""A report as Markdown, for a model card."""

from __future__ import annotations

from collections.abc import Sequence

from superweights.reports.blocks import Beside, Block, Cell, Chart, Film, LayerMap, Paragraph, Section, Table


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The report; charts become their tables, and texts that come from models or files are escaped."""
    parts = [f"# {escaped(title)}"]
    for section in sections:
        parts.append(f"## {escaped(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f"**{escaped(block.text)}**" if block.strong else escaped(block.text)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Chart):
        return _table(block.table())
    if isinstance(block, LayerMap | Film):
        return f"{escaped(block.title)}: {escaped(block.says)}"
    assert isinstance(block, Beside)
    first, second = (escaped(text) for text in block.texts)
    prompt = escaped(block.prompt)
    return f"> {prompt}\n\n* {escaped(block.names[0])}: {first}\n* {escaped(block.names[1])}: {second}"


def _table(table: Table) -> str:
    return f"{escaped(table.caption)}\n\n{table_lines(table)}"


def table_lines(table: Table) -> str:
    """The rows under their titles, numbers to the right; without the caption."""
    head = "| " + " | ".join(map(escaped, table.columns)) + " |"
    right = [
        all(isinstance(row[n], int | float | None) for row in table.rows) for n in range(len(table.columns))
    ]
    rule = "|" + "|".join("--:" if numbers else "---" for numbers in right) + "|"
    rows = ["| " + " | ".join(escaped(shown(cell)) for cell in row) + " |" for row in table.rows]
    return "\n".join([head, rule, *rows])


def shown(cell: Cell) -> str:
    """A cell as people read it."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        cell += 0.0  # no minus before a zero
        return f"{cell:,.0f}" if 1e4 <= abs(cell) < 1e15 else f"{cell:,.4g}"
    return str(cell)


def escaped(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would act on."""
    flat = " ".join(str(text).split())
    for mark in ("\\", "`", "*", "_", "[", "]", "|", "#", "~"):
        flat = flat.replace(mark, f"\\{mark}")
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
