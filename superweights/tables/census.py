"""What a census found: a row for each model, then what was not entered, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superweights.tables.numbers import plain
from superweights.tables.page import Fitting, Parts, Table, ruled
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.findings.census import Census, Entered
    from superweights.record import Record

_ALL = ("model", "verdict", "super weights", "costliest", "its cost", "weight on token 0")
_FEWER = ("model", "verdict", "super weights", "its cost")


def parts(record: Record) -> Parts:
    """The table in two widths, then sentences."""
    found: Census = record.findings
    if found.models:
        yield Fitting([_table(found, _ALL), _table(found, _FEWER)])
    for model in found.models:
        if model.unprofiled:
            yield f"{plain(model.name)} has no profile: {plain(model.unprofiled)}"
    for each in found.failed:
        yield f"[bold red]not entered:[/] {plain(each.name)}: {plain(each.sentence)}"
        yield f"  [bold]hint:[/] {plain(each.hint)}"
    for each in found.duplicates:
        again = (
            "stands twice in the list" if each.name == each.of else f"is the same model as {plain(each.of)}"
        )
        yield f"passed over: {plain(each.name)} {again}."
    weights = counted(len(found.weights), "weight")
    yield f"{counted(len(found.models), 'model')} entered, {weights} in the index of this census."


def _table(found: Census, titles: tuple[str, ...]) -> Table:
    table = ruled(*titles, header="bold", words=("verdict", "costliest"))
    for model in found.models:
        cells = _cells(model)
        table.add_row(*(cells[title] for title in titles))
    return table


def _cells(model: Entered) -> dict[str, str]:
    worst, mass = model.costliest, (model.profile or {}).get("mass")
    return {
        "model": plain(model.name),
        "verdict": model.verdict,
        "super weights": str(len(model.super_weights)),
        "costliest": "" if worst is None else plain(str(worst)),
        "its cost": "" if model.cost is None else f"{model.cost:+z.4g}",
        "weight on token 0": "" if mass is None else f"{mass:z.1%}",
    }
