"""`superweights show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console
from superweights.cli.groups import Printed, grouped


@grouped
def show(
    record: Annotated[Path, typer.Argument(help="A .json file that --out of a command wrote.")],
    output: Printed = Printed(),
) -> None:
    """Print a record again as the command printed it.

    Example: superweights show found.json
    """
    from superweights import show as verb
    from superweights.tables import parts_of

    read = verb(record)
    if output.as_json:
        console.print_line(read.to_json())
    else:
        console.show(parts_of(read, kept_in=record))
