"""`superweights attach`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.errors import SuperweightsError

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
    import json

    from superweights.checkpoint import open_checkpoint
    from superweights.quantization.peel import read_side_car

    taken_out = read_side_car(side_car)
    with open_checkpoint(base, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint:
        if checkpoint.format == "gguf":
            from superweights.formats.lora import write_gguf_adapter

            if to.suffix != ".gguf":
                raise SuperweightsError(
                    f"The base is a GGUF file, and {to} is no name for an adapter of llama.cpp's.",
                    hint=f"give --to {to.with_suffix('.gguf')}.",
                )
            lacking = write_gguf_adapter(checkpoint, taken_out, to)
        else:
            from superweights.quantization.adapter import write_adapter
            from superweights.stream import streaming

            with streaming(checkpoint, device=device, resident=True) as model:
                found = write_adapter(model, taken_out, to, checkpoint.name)
            lacking = {
                str(kept.address): correction.delta
                for kept, correction in zip(taken_out.weights, found, strict=True)
            }
    if as_json:
        console.print_line(json.dumps({"to": str(to), "lacking": lacking}))
        return
    console.data.print(f"[bold]{console.plain(str(to))}[/]: what {console.plain(base)} lacks", soft_wrap=True)
    for address, delta in lacking.items():
        console.data.print(f"  {console.plain(address)}: {delta:+.6g}", soft_wrap=True, highlight=False)
