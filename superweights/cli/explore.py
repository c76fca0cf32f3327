"""`superweights explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.groups import Opened, grouped

Pulled = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        help="TENSOR\\[i, j]; repeatable. Without it: those of --from, the known ones, or a search.",
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
Host = Annotated[str, typer.Option(help="Another address than this machine's own needs --token.")]
Token = Annotated[str | None, typer.Option(help="The token that people must enter.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="A file that holds the token; arguments can be seen by others. Or SUPERWEIGHTS_TOKEN."),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name", help="A name that a proxy gives the page, besides this machine's own; repeatable."
    ),
]
Browser = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")]


@grouped
def explore(
    model: options.ModelOrEmbedded = None,
    weights: Pulled = None,
    from_: options.FromRecord = None,
    port: Port = 7860,
    host: Host = "127.0.0.1",
    token: Token = None,
    token_file: TokenFile = None,
    name: Names = None,
    open_browser: Browser = True,
    seed: options.Seed = 0,
    opened: Opened = Opened(),
) -> None:
    """Open a local page on which a super weight is pulled, and text, predictions and sinks are watched.

    Example: superweights explore
    """
    from superweights import explore as verb

    guard: Any = {"host": host, "port": port, "token": token, "token_file": token_file}
    guard["names"] = name or ()
    with console.progress() as bar:
        page = verb(opened.source(model), weights or (), record=from_, seed=seed, progress=bar, **guard)
        address = next(page)
    console.note(f"{address} (stop with Ctrl-C)")
    if open_browser:
        typer.launch(address)
    next(page, None)  # serves until it is stopped
