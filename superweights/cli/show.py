"""`superweights show`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.printing import finish, print_table, table, with_error

if TYPE_CHECKING:
    from superweights.record import Record

# The commands whose record is shown by a file of another name, and by a function of another name.
_SHOWN_BY = {
    "score": ("effects", "show_effects"),
    "ablate": ("effects", "show_effects"),
    "scale": ("effects", "show_effects"),
    "drift": ("adapt_drift", "show_record"),
}


def show(
    record: Annotated[Path, typer.Argument(help="A .json file that --out of a command wrote.")],
    as_json: options.AsJson = False,
) -> None:
    """Print a record again as the command printed it.

    Example: superweights show found.json
    """
    from superweights.verbs.show import show as verb

    finish(verb(record), as_json, None, _show_any)


def _show_any(record: Record) -> None:
    """As its command shows it; the scores of a record whose command is not known here."""
    if record.command == "find":
        from superweights.cli.found import teller

        teller(False, None)(record)
        return
    words = record.command.split(" ")
    word = "_".join(words) if words[0] == "adapt" else words[0]
    file, function = _SHOWN_BY.get(word, (word, "show_record"))
    if words[0] == "anatomy" or not (Path(__file__).parent / f"{file}.py").is_file():
        _show_scores(
            record
        )  # an answer of anatomy is read back as JSON values: its sheets are drawn by its class
        return
    getattr(import_module(f"superweights.cli.{file}"), function)(record)


def _show_scores(record: Record) -> None:
    console.data.print(
        f"[bold]{console.plain(record.command)}[/], {console.plain(str(record.inputs.get('name')))}"
    )
    rows = table("score", "value", "unit", "n")
    for score in record.scores:
        rows.add_row(console.plain(score.name), with_error(score), console.plain(score.unit), str(score.n))
    print_table(rows)
