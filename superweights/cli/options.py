"""Options that several commands share, word for word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from superweights.subject import Source

Model = Annotated[
    str, typer.Argument(help="Folder, .gguf or .safetensors file, org/name\\[@revision], or 'embedded'.")
]
ModelOrEmbedded = Annotated[
    str | None,
    typer.Argument(
        help="Folder, .gguf or .safetensors file, org/name\\[@revision]; none: the embedded model."
    ),
]
TextFile = Annotated[Path | None, typer.Option(help="Text file to score, instead of built-in prose.")]
Edits = Annotated[
    list[str] | None,
    typer.Option(
        help="TENSOR\\[i, j]=FACTOR (0 ablates) or TENSOR\\[i, j]:=VALUE; repeatable, made together."
    ),
]
Weights = Annotated[list[str], typer.Argument(help="TENSOR\\[i, j] of one weight or several.")]
Window = Annotated[int, typer.Option(min=2, help="Tokens in a window.")]
Windows = Annotated[int, typer.Option(min=1, help="How many windows of the text.")]
Stride = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens from one window's start to the next's; each token is scored once."),
]
Bos = Annotated[
    str,
    typer.Option(
        help="Begin each window with the beginning-of-sequence token: auto (as the model's tokenizer does), yes, no."
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Windows that go through the model at once.")]
Dtype = Annotated[str, typer.Option(help="auto (as stored, never float16), float32, bfloat16, float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
AllowPickle = Annotated[bool, typer.Option(help="Read pickled weights (weights_only).")]
TrustRemoteCode = Annotated[bool, typer.Option(help="Run the checkpoint's own model code.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn: controls, bootstrap, samples.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON line instead of a table.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="JSON lines, one per candidate.")]
Out = Annotated[Path | None, typer.Option(help="Also write the record to this file, as JSON.")]
NamedWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights", help="TENSOR\\[i, j]; repeatable. Without it: those of --from, or the known ones."
    ),
]
FromRecord = Annotated[
    Path | None, typer.Option("--from", help="Record of 'superweights find --out': its super weights.")
]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="Weights to keep exactly: known, none, or TENSOR\\[i, j]; repeatable."),
]


def source(
    model: str | None,
    dtype: str = "auto",
    device: str = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Source:
    """The model that these options name."""
    from superweights.subject.source import Source

    return Source(model, dtype, device, allow_pickle, trust_remote_code)
