"""`superweights estimate`: what a run would take."""

from __future__ import annotations

from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import grouped

Config = Annotated[
    str, typer.Argument(help="Folder with a config.json, or any checkpoint; no weight is read.")
]
Command = Annotated[str, typer.Option("--for", help="score, ablate, find, 'find --quick'.")]
On = Annotated[str, typer.Option(help="cpu, gpu, or how many accelerators share the model.")]
Multiplications = Annotated[
    float | None, typer.Option(min=1, help="A second and device, instead of measuring here.")
]
Reading = Annotated[
    float | None, typer.Option(min=1, help="Bytes of weights a second and device, instead of measuring here.")
]
Windows = Annotated[int | None, options.in_text(min=1, help="Windows of text (of score and ablate).")]
Window = Annotated[int | None, options.in_text(min=2, help="Tokens in a window (of score and ablate).")]
AsJson = Annotated[bool, options.in_output("--json", help="One JSON line instead of a table.")]


@grouped
def estimate(
    model: Config,
    command: Command = "find",
    on: On = "cpu",
    multiplications: Multiplications = None,
    reading: Reading = None,
    windows: Windows = None,
    window: Window = None,
    as_json: AsJson = False,
) -> None:
    """What a run would read, multiply, hold and take, from the config alone.

    Example: superweights estimate ./llama-70b --on 8 --multiplications 2e14 --reading 2e10
    """
    from superweights import estimate as verb
    from superweights.tables.costs import parts

    found = verb(
        model,
        command,
        on=on,
        multiplications=multiplications,
        reading=reading,
        windows=windows,
        window=window,
    )
    console.show_rows([found.to_json()], as_json, lambda: parts(found))
