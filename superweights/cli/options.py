"""Options that several commands share, word for word, each in the panel of --help where it belongs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

# The panels of --help: what is asked (also every option that names no panel), of which text, which model, given where.
PANELS = ("What", "Text", "Model", "Output")
in_text = partial(typer.Option, rich_help_panel="Text")
in_model = partial(typer.Option, rich_help_panel="Model")
in_output = partial(typer.Option, rich_help_panel="Output")


def output_place(path: Path | None) -> Path | None:
    """`path`, where a file can stand. Raises `SuperweightsError` otherwise, before the work that should fill it."""
    from superweights.record import Record

    if path is not None:
        Record.check_place(path)
    return path


NAMED = "Folder, .gguf or .safetensors file, org/name\\[@revision], or 'embedded'"
Model = Annotated[str, typer.Argument(help=f"{NAMED}.")]
ModelOrEmbedded = Annotated[str | None, typer.Argument(help=f"{NAMED}, the default.")]
Edits = Annotated[
    list[str] | None,
    typer.Option(
        help="TENSOR\\[i, j]=FACTOR (0 ablates) or TENSOR\\[i, j]:=VALUE; repeatable, made together."
    ),
]
Weights = Annotated[list[str], typer.Argument(help="TENSOR\\[i, j] of one weight or several.")]
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
Seed = Annotated[int, typer.Option(help="Seed of everything drawn: controls, bootstrap, samples.")]

TextFile = Annotated[Path | None, in_text(help="Text file to score, instead of built-in prose.")]
Window = Annotated[int, in_text(min=2, help="Tokens in a window.")]
Windows = Annotated[int, in_text(min=1, help="How many windows of the text.")]
Stride = Annotated[
    int | None,
    in_text(min=1, help="Tokens from one window's start to the next's; each token is scored once."),
]
Bos = Annotated[
    str,
    in_text(
        help="Begin windows with the beginning-of-sequence token: auto (as the tokenizer does), yes, no."
    ),
]
BatchSize = Annotated[int | None, in_text(min=1, help="Windows that go through the model at once.")]

Dtype = Annotated[
    str,
    in_model(
        help="auto (as stored; float32 for what this machine has no arithmetic for), float32, bfloat16, float16."
    ),
]
Device = Annotated[str, in_model(help="auto, cpu, cuda, mps.")]
AllowPickle = Annotated[bool, in_model("--allow-pickle", help="Read pickled weights (weights_only).")]
TrustRemoteCode = Annotated[
    bool, in_model("--trust-remote-code", help="Run the checkpoint's own model code.")
]
DeviceMap = Annotated[
    str | None,
    in_model(
        metavar="auto|FILE.json",
        help="Which blocks stay in memory, and which wait on the disk: as many as fit, or accelerate's map.",
    ),
]
TensorParallel = Annotated[
    bool,
    in_model(
        "--tensor-parallel",
        help="The processes that torchrun has started share the model, by transformers' plan.",
    ),
]

Objective = Annotated[
    str,
    in_model(
        help="What is predicted: auto (as the checkpoint's class says), next-token, masked, embedding, seq2seq, image."
    ),
]
Tower = Annotated[
    str | None, typer.Option(help="One of several stacks of blocks: encoder, decoder, vision, language.")
]

AsJson = Annotated[bool, in_output("--json", help="One JSON line instead of a table.")]
AsJsonLines = Annotated[bool, in_output("--json", help="JSON lines, one per finding.")]
Out = Annotated[
    Path | None, in_output(help="Also write the record to this file, as JSON.", callback=output_place)
]
NewFolder = Annotated[Path, in_output("--to", help="A new folder.")]


def hub_name(name: str | None) -> str | None:
    """`name`, where something can be put on the hub. Raises `SuperweightsError` otherwise, before the work."""
    if name is not None:
        from superweights.verbs.push import check_target

        check_target(name)
    return name


PushToHub = Annotated[
    str | None,
    in_output(
        "--push-to-hub",
        metavar="ORG/NAME",
        help="Also put it into this new repository of the Hugging Face Hub, with a model card.",
        callback=hub_name,
    ),
]
Private = Annotated[bool, in_output("--private", help="On the hub only you may read it.")]
Picture = Annotated[Path | None, in_output(help="Also draw it into this .svg file.")]
