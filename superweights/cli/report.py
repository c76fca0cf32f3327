"""`superweights report`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import Opened, grouped
from superweights.wording import counted

What = Annotated[
    list[str] | None,
    typer.Argument(help="Records (.json files that --out wrote), or one model; none: the embedded model."),
]
To = Annotated[
    Path | None,
    options.in_output("--output", "-o", help="Write here; else to stdout.", callback=options.output_place),
]
Format = Annotated[
    str | None, options.in_output("--format", help="html, md, json; else by the name of --output.")
]


@dataclass(frozen=True)
class Tested:
    """On how much text a model is tested now."""

    window: options.Window = 128
    windows: options.Windows = 8


@grouped
def report(
    what: What = None,
    seed: options.Seed = 0,
    tested: Tested = Tested(),
    opened: Opened = Opened(),
    output: To = None,
    format_: Format = None,
) -> None:
    """Write one self-contained page about super weights, from records or from a model searched and tested now.

    Example: superweights report --output smollm2.html
    """
    from superweights import report as verb
    from superweights.verbs.report import are_records, format_of

    subject = what if are_records(what or ()) else opened.source(what[0] if what else None)
    form, cut = format_of(output, format_), {"window": tested.window, "windows": tested.windows}
    with console.progress() as bar:
        made = verb(subject, form, to=output, seed=seed, progress=bar, **cut)
    if output is None:
        sys.stdout.write(made.text)
    else:
        console.note(f"{output}: {counted(len(made.records), 'record')}")
