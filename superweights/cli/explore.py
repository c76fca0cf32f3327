"""`superweights explore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options

if TYPE_CHECKING:
    from superweights.address import Address
    from superweights.checkpoint import Checkpoint


def explore(
    model: options.ModelOrEmbedded = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="TENSOR[i, j]; repeatable. Without it: those of --from, the known ones, or a search."
        ),
    ] = None,
    from_: options.FromRecord = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Another address than this machine's own needs --token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(help="The password that people must enter (user: explorer).")
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
    from superweights.checkpoint import open_checkpoint
    from superweights.errors import SuperweightsError
    from superweights.explorer import Explorer
    from superweights.explorer.page import build, serve
    from superweights.stream import streaming

    with open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint:
        tokenizer = checkpoint.tokenizer()
        if tokenizer is None:
            raise SuperweightsError(
                f"{checkpoint.name} has no tokenizer, so it can write nothing.",
                hint="put its tokenizer.json beside the weights.",
            )
        chosen = _weights(checkpoint, weights or [], from_)
        with streaming(checkpoint, dtype=dtype, device=device, resident=True) as loaded:
            page = build(Explorer(loaded, tokenizer, _named(checkpoint, chosen, seed)), checkpoint.name)
            for address in serve(page, host, port, token):
                console.notes.print(f"{address} (stop with Ctrl-C)", highlight=False)
                if open_browser:
                    typer.launch(address)


def _weights(checkpoint: Checkpoint, named: list[str], record: Path | None) -> list[Address]:
    """Those named, else known or recorded, else searched for now."""
    from superweights.address import Address
    from superweights.cli.console import progress
    from superweights.cli.weights import weights_of
    from superweights.discovery import find
    from superweights.errors import SuperweightsError

    if named:
        for each in named:
            checkpoint.element(Address.parse(each).tensor, Address.parse(each).index)
        return [Address.parse(each) for each in named]
    try:
        return weights_of(checkpoint, record)
    except SuperweightsError:
        if record is not None:
            raise
    with progress() as bar:
        found = find(checkpoint, progress=bar).super_weights
    if not found:
        raise SuperweightsError(
            f"No super weight of {checkpoint.name} was found.", hint="name weights to pull with --weights."
        )
    return [weight.address for weight in found]


def _named(checkpoint: Checkpoint, chosen: list[Address], seed: int) -> dict[str, Address]:
    """The weights by name, the largest first, and beside them a random one of the first one's matrix, as a control."""
    import random

    from superweights.address import Address

    chosen = sorted(chosen, key=lambda each: -abs(checkpoint.element(each.tensor, each.index)))
    names = {str(address): address for address in chosen}
    first, draw = chosen[0], random.Random(seed)
    index = tuple(draw.randrange(size) for size in checkpoint.tensors[first.tensor].shape)
    control = Address(first.tensor, index)
    return {**names, f"control, a random weight: {control}": control}
