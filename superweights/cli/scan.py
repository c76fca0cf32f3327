"""`superweights scan`: what the weights alone show."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console
from superweights.record import Record, to_json_line

if TYPE_CHECKING:
    from superweights.discovery.scan import Scan


def scan(
    model: Annotated[
        str | None, typer.Argument(help="A folder, file or hub name. Nothing: the embedded one.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many rows, neurons and tensors to show.")] = 10,
    spectrum: Annotated[
        bool, typer.Option("--spectrum", help="Exact norm and spectrum of the top rows.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the whole result, with its origin, to this file.")
    ] = None,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights too.")] = False,
) -> None:
    """Rank rows, neurons and tensors by their weights alone: no forward pass, one tensor in memory.

    It tells where to look, not what matters: prove suspects with superweights find.

    Example: superweights scan ./my-llama --top 5
    """
    from superweights.checkpoint import open_checkpoint
    from superweights.discovery.scan import scan as scan_checkpoint

    with (
        open_checkpoint(model, allow_pickle=allow_pickle) as checkpoint,
        console.progress_bar("scanning") as bar,
    ):
        found = scan_checkpoint(
            checkpoint,
            top=top,
            spectrum=spectrum,
            progress=lambda name, done, total: bar.update(bar.task_ids[0], completed=done, total=total),
        )
    if json:
        _print_lines(found)
    else:
        print_tables(found, top)
    if out is not None:
        console.write_out(out, _record(found).to_json() + "\n")


def _print_lines(found: Scan) -> None:
    """Every finding as one JSON object a line; `finding` says which kind it is, the summary comes last."""
    data = found.to_json()
    for kind in ("suspects", "neurons", "tensors", "skipped"):
        for row in data.pop(kind):
            console.print_line(to_json_line({"finding": kind.removesuffix("s"), **row}))
    console.print_line(to_json_line({"finding": "summary", **data}))


def print_tables(found: Scan, top: int) -> None:
    """The tables, what was skipped or damaged, and what all this does not prove."""
    exact = ("exact norm", "q1") if any(s.spectrum for s in found.suspects) else ()
    _print_table(
        f"Rows that stand out from their layer, and the entry that carries each ({found.blocks} blocks)",
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
        table.add_column(head, no_wrap=i == 0, justify="right" if i else "left")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.data.print(table, "")


def _numbers(suspect: Any, exact: bool) -> tuple[str, ...]:
    rank = "" if suspect.value_rank is None else str(suspect.value_rank + 1)
    cells = _short(suspect.value), _short(suspect.z), rank, _short(suspect.ratio), _short(suspect.share)
    spectrum = suspect.spectrum
    return (*cells, _short(spectrum.norm), _short(spectrum.concentration)) if exact else cells


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _record(found: Scan) -> Record:
    """The whole result with its origin."""
    import torch

    from superweights import __version__

    versions = {"superweights": __version__, "torch": torch.__version__, "python": platform.python_version()}
    origin = {key: found.conditions[key] for key in ("name", "revision", "format", "fingerprint")}
    return Record("scan", origin, versions, findings=found.to_json())
