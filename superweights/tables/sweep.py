"""The outcomes of a sweep as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from superweights.tables.numbers import bos_words, cut_words, plain, with_error
from superweights.tables.page import Parts, Table, dim, table

if TYPE_CHECKING:
    from superweights.sweeps import Outcome, Setup
    from superweights.sweeps.swept import Swept


def parts(swept: Swept) -> Parts:
    """Model by model: its sets of removed weights, named by letters, then a table for each curve."""
    for setup, outcomes in swept.by_model():
        yield from _model(outcomes, setup)


def _model(outcomes: Sequence[Outcome], setup: Setup) -> Parts:
    letters = _letters(outcomes)
    for address, letter in letters.items():
        yield f"[bold]{letter}[/]  {plain(str(address))}"
    asked = setup.cells[0].scores
    yield from _rows(outcomes, asked, letters)
    curves = [outcome for outcome in outcomes if outcome.point.x is not None]
    for (grid, series), points in groupby(curves, lambda outcome: (outcome.point.grid, outcome.point.series)):
        words = "removed" if grid == "controls" else "times"
        yield f"\n[bold]{plain(series)}[/]"
        yield from _curve(list(points), asked, words)
    yield from _conditions(setup, any(outcome.beyond_sum is not None for outcome in outcomes))


def _letters(outcomes: Sequence[Outcome]) -> dict[Any, str]:
    """A letter (after Z a number) for each weight that stands in no curve."""
    sets = [outcome.point.edits for outcome in outcomes if outcome.point.x is None]
    addresses = dict.fromkeys(edit.address for edits in sets for edit in edits)
    names = ascii_uppercase if len(addresses) <= 26 else [f"W{i + 1}" for i in range(len(addresses))]
    return dict(zip(addresses, names, strict=False))


def _rows(outcomes: Sequence[Outcome], asked: Sequence[str], letters: dict[Any, str]) -> Parts:
    rows = [outcome for outcome in outcomes if outcome.point.x is None]
    sums = any(outcome.beyond_sum is not None for outcome in rows)
    shown = _table("", asked, sums)
    failed = []
    for outcome in rows:
        edits = outcome.point.edits
        name = outcome.point.series if not edits else " and ".join(letters[edit.address] for edit in edits)
        if len(edits) > 3:
            name = f"all {len(edits)}"
        name = f"without {name}" if edits else name
        shown.add_row(plain(name), *_cells(outcome, asked, sums))
        failed += [f"{name}: {outcome.sentence}"] if outcome.status == "failed" else []
    yield shown
    yield from _failures(failed)


def _curve(points: Sequence[Outcome], asked: Sequence[str], words: str) -> Parts:
    shown = _table(words, asked, sums=False)
    for outcome in points:
        shown.add_row(f"{outcome.point.x:z,.5g}", *_cells(outcome, asked, sums=False))
    yield shown
    yield from _failures([f"{o.point.x:z,.5g} {words}: {o.sentence}" for o in points if o.status == "failed"])


def _failures(sentences: Sequence[str]) -> Iterator[str]:
    return (f"[red]failed[/] {plain(sentence)}" for sentence in sentences)


def _conditions(setup: Setup, sums: bool) -> Iterator[str]:
    cut, name = setup.cut, plain(setup.task.name)
    yield dim(
        f"{name}: {cut_words(cut.count, cut.length)}, {bos_words({'bos': cut.bos})}, {setup.cells[0].dtype}; "
        f"SHA-256 of the tokens {cut.tokens_sha256[:12]}. Errors are standard errors over windows; the loss is the "
        "rise over the model as it is."
    )
    if sums:
        yield dim(
            "beyond sum: what they cost together less what each costs alone; above zero they back each other up."
        )


def _table(first: str, asked: Sequence[str], sums: bool) -> Table:
    further = {"kl": "KL, nats", "agreement": "same top"}
    titles = ["perplexity", "loss, nats", *(title for score, title in further.items() if score in asked)]
    return table(first, *titles, *(["beyond sum"] if sums else []), right=bool(first))


def _cells(outcome: Outcome, asked: Sequence[str], sums: bool) -> list[str]:
    if outcome.status == "failed":
        return ["[red]failed[/]"]
    cells = [with_error(outcome.perplexity), with_error(outcome.loss, "+")]
    further = {"kl": outcome.kl, "agreement": outcome.agreement}
    edited = bool(outcome.point.edits)
    cells += [with_error(found if edited else None) for score, found in further.items() if score in asked]
    return [*cells, *([with_error(outcome.beyond_sum, "+")] if sums else [])]
