"""`superweights scan`: what the weights alone show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.printing import finish, print_table
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.findings import Scan, Suspect
    from superweights.record import Record


def scan(
    model: options.ModelOrEmbedded = None,
    top: Annotated[int, typer.Option(min=1, help="How many rows, neurons and tensors to show.")] = 10,
    spectrum: Annotated[
        bool, typer.Option("--spectrum", help="Exact norm and spectrum of the top rows.")
    ] = False,
    allow_pickle: options.AllowPickle = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, one per finding.")] = False,
    out: options.Out = None,
) -> None:
    """Rank rows, neurons and tensors by their weights alone: no forward pass, one tensor in memory.

    It tells where to look, not what matters: prove suspects with superweights find.

    Example: superweights scan ./my-llama --top 5
    """
    from superweights.subject import Source
    from superweights.verbs.scan import scan as verb

    console.check_out(out)
    with console.progress("scanning") as bar:
        record = verb(Source(model, allow_pickle=allow_pickle), top=top, spectrum=spectrum, progress=bar)
    finish(record, as_json, out, show_record, _lines)


def _lines(record: Record) -> Iterator[dict[str, Any]]:
    """Every finding by itself; `finding` says which kind it is, the summary comes last."""
    from superweights.record import plain

    data = plain(record.findings)
    for kind in ("suspects", "neurons", "tensors", "skipped"):
        yield from ({"finding": kind.removesuffix("s"), **row} for row in data.pop(kind))
    yield {"finding": "summary", **data}


def show_record(record: Record) -> None:
    """Its tables, as many rows as were asked for."""
    print_tables(record.findings, record.findings.conditions.get("top", 10))


def print_tables(found: Scan, top: int) -> None:
    """The tables, what was skipped or damaged, and what all this does not prove."""
    exact = ("exact norm", "q1") if any(s.spectrum for s in found.suspects) else ()
    _print_table(
        f"Rows that stand out from their layer, and the entry that carries each ({counted(found.blocks, 'block')})",
        ("entry", "value", "z", "|W| rank", "row ratio", "share", *exact),
        [(s.address, *_numbers(s, bool(exact))) for s in found.suspects],
    )
    _print_table(
        "Neurons with a large output column",
        ("tensor", "neuron", "ratio", "sparsity", "writes channel"),
        [(n.tensor, n.in_neuron, _short(n.ratio), _short(n.sparsity), n.out_channel) for n in found.neurons],
    )
    _print_table(
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
    for line in (*lines, found.caveat):
        console.data.print(line, markup=False, soft_wrap=True)


def _print_table(title: str, heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for i, head in enumerate(heads):
        table.add_column(head, no_wrap=True, justify="right" if i else "left")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    print_table(table)
    console.data.print()


def _numbers(suspect: Suspect, exact: bool) -> tuple[str, ...]:
    rank = "" if suspect.value_rank is None else str(suspect.value_rank + 1)
    cells = _short(suspect.value), _short(suspect.z), rank, _short(suspect.ratio), _short(suspect.share)
    spectrum = suspect.spectrum
    if not exact or spectrum is None:
        return cells
    return *cells, _short(spectrum.norm), _short(spectrum.concentration)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
