"""`superweights.report`: one self-contained page about super weights. Needs no torch where records are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_replaceable
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.reports import FORMATS, read_records, render

_PROMPTS = ("The capital of France is", "To bake bread, first", "The old man looked at the sea and")
_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.5, 2.0, 3.0)
_ENDINGS = (".json", ".jsonl")


@dataclass(frozen=True)
class Report:
    """A report, and the records that it tells of."""

    records: tuple[Record, ...]
    """In the order in which they were given, or made."""
    text: str
    """The report itself, in the form that was asked for."""


def report(
    what: Any = None,
    format: str = "html",
    *,
    window: int = 128,
    windows: int = 8,
    to: Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """A report about records (themselves, or the files that hold them), or about one model searched and tested now.

    `what` is one of them or several; a model is named as in `score`, None is the embedded one. `format` is one of
    `reports.FORMATS`. `windows` of `window` tokens are what a model is tested on. The report is
    also written to the file `to`.

    Raises `SuperweightsError` for another form, for several models, and as `reports.read_records`.

    >>> page = report(["found.json", "scaled.json"]).text            # doctest: +SKIP
    """
    if format not in FORMATS:
        raise SuperweightsError(
            f"There is no format {format!r}.", hint=f"give --format {', '.join(FORMATS)}."
        )
    if to is not None:
        check_replaceable(Path(to))
    named = list(what) if isinstance(what, Sequence) and not isinstance(what, str) else [what]
    if named and all(isinstance(each, Record) or str(each).endswith(_ENDINGS) for each in named):
        records = [record for each in named for record in _read(each)]
    elif len(named) > 1:
        raise SuperweightsError(
            "A report is about records, or about one model.",
            hint="make records of several models first: superweights find MODEL --out NAME.json.",
        )
    else:
        records = _looked_at(named[0] if named else None, window, windows, seed, progress)
    made = Report(tuple(records), render(records, format))
    if to is not None:
        write_text(Path(to), made.text)
    return made


def are_records(named: Sequence[str]) -> bool:
    """Whether the names are those of records, and not of a model: several, or one that ends like a record's file."""
    return len(named) > 1 or (len(named) == 1 and named[0].endswith(_ENDINGS))


def format_of(path: Path | None, asked: str | None = None) -> str:
    """The format that was `asked` for, else the one that the name of the file says; html where there is neither."""
    if asked is not None or path is None:
        return asked or "html"
    ending = path.suffix.lower().removeprefix(".")
    return "html" if ending == "htm" else ending


def _read(each: Record | Path | str) -> list[Record]:
    return [each] if isinstance(each, Record) else read_records([Path(each)])


def _looked_at(model: Any, window: int, windows: int, seed: int, progress: Progress) -> list[Record]:
    """The model searched; then, for what matters most, scaled, removed, and asked to write."""
    from dataclasses import replace

    from superweights.checkpoint import opened_checkpoint
    from superweights.editing import zero
    from superweights.scoring.effects import Rows, Writing
    from superweights.subject import Reading, Source
    from superweights.verbs.scale import scale
    from superweights.verbs.score import score_rows

    reading = Reading(window=window, windows=windows)
    with opened_checkpoint(model) as checkpoint:
        source = replace(Source.of(model), name=checkpoint)
        found, weights = _searched(source, seed, progress)
        if not weights or checkpoint.tokenizer() is None:
            return [found]
        scaled = scale(source, weights[0], _FACTORS, reading, seed=seed, progress=progress)
        all_of_them = [(f"without all {len(weights)}", zero(weights))] if len(weights) > 1 else []
        rows: Rows = [("without the strongest", zero(weights[0])), *all_of_them]
        writing = Writing(_PROMPTS, shift=True)
        scored = score_rows("score", source, rows, reading, writing=writing, seed=seed, progress=progress)
        return [found, scaled, scored]


def _searched(source: Any, seed: int, progress: Progress) -> tuple[Record, list[Any]]:
    """The record of a search, and the super weights that it found, the costliest first."""
    from superweights.discovery import Search
    from superweights.verbs.find import find, found_record

    found = find(source, Search(seed=seed), progress=progress)
    by_cost = sorted(found.super_weights, key=lambda each: -(each.effect.value if each.effect else 0.0))
    return found_record(found), [weight.address for weight in by_cost]
