"""`superweights adapt drift`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.printing import finish, print_table, table

if TYPE_CHECKING:
    from superweights.record import Record

_SHOWN = 8


def drift(
    model: options.Model,
    against: Annotated[str, typer.Option(help="The base that it was made from.")],
    weights: options.NamedWeights = None,
    from_: options.FromRecord = None,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """How far a fine-tuned model is from its base, and what became of the base's super weights. No model runs.

    Example: superweights adapt drift smollm2-arithmetic --against embedded
    """
    from superweights.verbs.drift import drift as verb

    console.check_out(out)
    with console.progress() as bar:
        record = verb(model, against, weights or (), record=from_, progress=bar)
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    found = record.findings.drift
    moved = sorted((t for t in found["tensors"] if t["share"]), key=lambda t: -t["changed"])
    console.data.print(f"{len(moved)} of {len(found['tensors'])} tensors changed.")
    rows = table("tensor", "changed", "share of numbers", "typical change")
    for each in moved[:_SHOWN]:
        cells = f"{each['changed']:.2e}", f"{each['share']:.3f}", f"{each['typical']:.2e}"
        rows.add_row(console.plain(each["tensor"]), *cells)
    print_table(rows)
    for title, key in (("super weights", "weights"), ("moved most for their tensor", "most")):
        rows = table(title, "base", "here", "larger ones", "here", "moved")
        for each in found[key]:
            numbers = f"{each['base']:.4g}", f"{each['tuned']:.4g}"
            places = str(each["place_base"]), str(each["place_tuned"]), f"{each['moved']:.2f}"
            rows.add_row(console.plain(each["address"]), *numbers, *places)
        if found[key]:
            print_table(rows)
    for name in ("only_base", "only_tuned"):
        if found[name]:
            console.data.print(
                f"{name.replace('_', ' in ')}: {console.plain(', '.join(found[name][:_SHOWN]))}"
            )
