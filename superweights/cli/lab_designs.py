"""`superweights lab designs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console


def designs(
    folder: Annotated[Path, typer.Argument(help="A folder with results of benchmarks/designs.py.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("designs.html"),
) -> None:
    """Draw TokenFormer, Byte Latent Transformer and Large Concept Model beside a Llama, on one HTML page.

    Example: superweights lab designs build/designs --out designs.html
    """
    from superweights.verbs.designs import designs as through

    console.notes.print(f"wrote {console.plain(str(through(folder, out)))}", soft_wrap=True)
