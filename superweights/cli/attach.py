"""`superweights attach`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options

SideCarFolder = Annotated[Path, typer.Option(help="The folder that superweights peel wrote.")]
To = Annotated[Path, typer.Option(help="A new folder (PEFT), or for a .gguf base a new .gguf file.")]


def attach(
    base: options.Model,
    side_car: SideCarFolder,
    to: To,
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Write what a quantized base lacks of its super weights as a LoRA adapter: for PEFT and vLLM, or llama.cpp.

    Example: superweights attach smollm2-peeled-int4 --side-car smollm2-peeled --to smollm2-adapter
    """
    from superweights.verbs.attach import attach as verb

    source = options.source(base, "auto", device, allow_pickle, trust_remote_code)
    attached = verb(source, side_car, to)
    if as_json:
        console.print_line(json.dumps(asdict(attached)))
        return
    console.data.print(f"[bold]{console.plain(str(to))}[/]: what {console.plain(base)} lacks", soft_wrap=True)
    for address, delta in attached.lacking.items():
        console.data.print(f"  {console.plain(address)}: {delta:+.6g}", soft_wrap=True, highlight=False)
