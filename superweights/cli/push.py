"""`superweights push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import grouped


@grouped
def push(
    path: Annotated[Path, typer.Argument(help="A folder, adapter or .gguf file that superweights wrote.")],
    name: Annotated[str, typer.Argument(help="ORG/NAME on the Hugging Face Hub, new.")],
    record: Annotated[
        Path | None,
        options.in_output(help="Record of the command that wrote it (--out): for its model card."),
    ] = None,
    private: options.Private = False,
) -> None:
    """Put what was written on the Hugging Face Hub, with a model card.

    Example: superweights push smollm2-int4 ada/smollm2-int4 --private
    """
    from superweights import push as verb

    console.print_line(f"pushed: {verb(path, name, record, private=private)}")
