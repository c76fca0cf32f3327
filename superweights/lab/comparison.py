"""Runs side by side: one table, each number the mean over seeds with its smallest and largest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from superweights.errors import SuperweightsError
from superweights.lab.columns import COLUMNS, Column
from superweights.lab.folder import RunFolder
from superweights.lab.judging import Judged, Spread, Verdict
from superweights.lab.result import Result
from superweights.wording import counted


@dataclass(frozen=True)
class Line:
    """One design: its name, how many seeds, a spread for each column (None: no seed has it), what is judged of it."""

    name: str
    seeds: int
    spreads: tuple[Spread | None, ...]
    """One for each column."""
    verdicts: tuple[Verdict, ...] = ()
    """What is judged of it."""
    diverged: int = 0
    """How many seeds diverged."""


@dataclass(frozen=True)
class Comparison:
    """Lines under columns; columns that no line has a number for are left out."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    """One for each design."""


def compared(runs: Mapping[str, Sequence[Result]], judged: Judged | None = None) -> Comparison:
    """`runs`, by name, beside each other."""
    lines = []
    for name, results in runs.items():
        spreads = tuple(Spread.of([column.read(result) for result in results]) for column in COLUMNS)
        verdicts = (
            tuple(v for v in judged.verdicts if v.name == name) if judged is not None else ()
        )  # in the order of PHENOMENA
        diverged = sum(result.status != "done" for result in results)
        lines.append(Line(name, len(results), spreads, verdicts, diverged))
    kept = [n for n in range(len(COLUMNS)) if any(line.spreads[n] is not None for line in lines)]
    return Comparison(
        tuple(COLUMNS[n] for n in kept),
        tuple(
            Line(line.name, line.seeds, tuple(line.spreads[n] for n in kept), line.verdicts, line.diverged)
            for line in lines
        ),
    )


def compare_folders(folders: Sequence[str | Path]) -> Comparison:
    """The finished runs of `folders` beside each other; runs that differ only in their seed make one line.

    Raises `SuperweightsError` for a folder without a finished run.
    """
    grouped: dict[str, list[Result]] = {}
    names: dict[str, str] = {}
    for place in folders:
        folder = RunFolder.open(place)
        held = folder.result()
        if held is None:
            raise SuperweightsError(
                f"The run in {place} has not ended.",
                hint=f"superweights lab train {folder.recipe_file} --to {place}",
            )
        result = Result.from_json(held)
        key = result.recipe.with_("seed", 0).fingerprint
        grouped.setdefault(key, []).append(result)
        names.setdefault(key, result.recipe.name)
    taken = list(names.values())
    shown = {key: name if taken.count(name) == 1 else f"{name} ({key[:6]})" for key, name in names.items()}
    return compared({shown[key]: results for key, results in grouped.items()})


def made_of(results: Sequence[Result]) -> str:
    """How much was trained, on what, and how loaded the machine was: what every number here depends on."""
    first = results[0]
    cpu, wall = sum(r.cpu_seconds for r in results), sum(r.seconds for r in results)
    loads = [result.load for result in results if result.load is not None]
    load = f", {min(loads):.1f} to {max(loads):.1f} programs wanting the machine" if loads else ""
    rows = first.end.rows if first.end is not None else 0
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    tokens = sorted({result.tokens for result in results if result.status == "done"})
    each = f"{tokens[0]:,} tokens each" if len(tokens) == 1 else "unlike numbers of tokens"
    return (
        f"{counted(len(results), 'run')} of {each}: {cpu / 60:.1f} CPU minutes of training "
        f"({wall / 60:.1f} by the clock{load}). Profiles on {rows} held-out rows of "
        f"{first.recipe.task.length} tokens, BOS in front. {versions}."
    )


def cell(column: Column, spread: Spread | None) -> tuple[str, str]:
    """A spread as two lines: the mean, and smallest to largest where there is more than one seed."""
    if spread is None:
        return "", ""
    low, high = column.text(spread.low), column.text(spread.high)
    return column.text(spread.mean), "" if spread.n == 1 else f"{low}..{high}"
