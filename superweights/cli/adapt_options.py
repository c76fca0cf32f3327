"""Options that the commands of `superweights adapt` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Expert = Annotated[Path, typer.Argument(help="The folder of an expert.")]
Experts = Annotated[Path, typer.Option(help="A folder with the folders of experts.")]
TaskFile = Annotated[
    str,
    typer.Option(
        help="JSON lines with prompt and answer, arithmetic, copying, classification, relations, or hub:DATASET."
    ),
]
Reward = Annotated[str, typer.Option(help="exact, starts, choice, number, or FILE.py:FUNCTION.")]
Method = Annotated[str, typer.Option(help="reinforce, or supervised (next-token loss).")]
Part = Annotated[str, typer.Option(help="Which matrices: mlp, attention or both.")]
Layers = Annotated[str | None, typer.Option(help="Only these layers, such as 0,3 or 20-29.")]
NewTokens = Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")]
Stop = Annotated[str | None, typer.Option(help="Text at which an answer ends.")]
Chat = Annotated[bool, typer.Option("--chat", help="Put prompts as a user's turn of the chat template.")]
Steps = Annotated[int, typer.Option(min=1, help="Updates at most.")]
Batch = Annotated[int, typer.Option(min=1, help="Prompts of an update.")]
Every = Annotated[int, typer.Option(min=1, help="Updates between two looks at the validation split.")]
