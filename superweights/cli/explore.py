"""`superweights explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from superweights.cli import console, options


def explore(
    model: options.ModelOrEmbedded = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="TENSOR\\[i, j]; repeatable. Without it: those of --from, the known ones, or a search."
        ),
    ] = None,
    from_: options.FromRecord = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Another address than this machine's own needs --token.")
    ] = "127.0.0.1",
    token: Annotated[str | None, typer.Option(help="The token that people must enter.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file that holds the token; arguments can be seen by others. Or SUPERWEIGHTS_TOKEN."
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
) -> None:
    """Open a local page on which a super weight is pulled, and text, predictions and sinks are watched.

    Example: superweights explore
    """
    from superweights.subject import Source
    from superweights.verbs.explore import explore as verb

    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    guard: Any = {"host": host, "port": port, "token": token, "token_file": token_file}
    with console.progress() as bar:
        page = verb(source, weights or (), record=from_, seed=seed, progress=bar, **guard)
        address = next(page)
    console.notes.print(f"{address} (stop with Ctrl-C)", highlight=False)
    if open_browser:
        typer.launch(address)
    next(page, None)  # serves until it is stopped
