"""What `scan` found: rows, neurons and tensors that stand out by their weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from superweights.tables.page import Parts, Table
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.findings import Scan, Suspect
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """Its tables, as many rows as were asked for; what was skipped or damaged, and what all this does not prove."""
    found: Scan = record.findings
    top = found.conditions.get("top", 10)
    exact = ("exact norm", "q1") if any(s.spectrum for s in found.suspects) else ()
    yield from _titled(
        f"Rows that stand out from their layer, and the entry that carries each ({counted(found.blocks, 'block')})",
        ("entry", "value", "z", "|W| rank", "row ratio", "share", *exact),
        [(s.address, *_numbers(s, bool(exact))) for s in found.suspects],
    )
    yield from _titled(
        "Neurons with a large output column",
        ("tensor", "neuron", "ratio", "sparsity", "writes channel"),
        [(n.tensor, n.in_neuron, _short(n.ratio), _short(n.sparsity), n.out_channel) for n in found.neurons],
    )
    yield from _titled(
        "Largest weight of each tensor",
        ("entry", "value", "z", "kurtosis", "row max/median", "column max/median"),
        [
            (
                f"{t.name}{list(t.largest)}",
                *map(_short, (t.value, t.z, t.kurtosis, t.row_ratio, t.column_ratio)),
            )
            for t in found.tensors[:top]
        ],
    )
    lines = [f"DAMAGED {t.name}: {t.nan} NaN, {t.infinite} infinite entries." for t in found.damaged]
    lines += [f"skipped {s.place}: {s.reason}." for s in found.skipped[:top]]
    if len(found.skipped) > top:
        lines.append(f"and {len(found.skipped) - top} more skipped; --json lists them.")
    yield from map(Text, (*lines, found.caveat))


def _titled(title: str, heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Parts:
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for i, head in enumerate(heads):
        table.add_column(head, no_wrap=True, justify="right" if i else "left")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    yield table
    yield ""


def _numbers(suspect: Suspect, exact: bool) -> tuple[str, ...]:
    rank = "" if suspect.value_rank is None else str(suspect.value_rank + 1)
    cells = _short(suspect.value), _short(suspect.z), rank, _short(suspect.ratio), _short(suspect.share)
    spectrum = suspect.spectrum
    if not exact or spectrum is None:
        return cells
    return *cells, _short(spectrum.norm), _short(spectrum.concentration)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:z.3g}"
