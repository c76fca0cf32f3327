"""`superweights lab designs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import grouped

Results = Annotated[Path, typer.Argument(help="A folder with results of benchmarks/designs.py.")]
Page = Annotated[Path, options.in_output(help="The HTML file.")]


@grouped
def designs(folder: Results, out: Page = Path("designs.html")) -> None:
    """Draw TokenFormer, Byte Latent Transformer and Large Concept Model beside a Llama, on one HTML page.

    Example: superweights lab designs build/designs --out designs.html
    """
    from superweights import designs as through

    console.note(f"wrote {through(folder, out)}")
