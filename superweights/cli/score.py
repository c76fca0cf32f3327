"""`superweights score`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import BatchedCut, Output, Sharable, grouped

if TYPE_CHECKING:
    from superweights.verbs.score import Passages, Writing


@dataclass(frozen=True)
class ScoredCut(BatchedCut):
    """A text whose windows may overlap."""

    stride: options.Stride = None


@dataclass(frozen=True)
class Further:
    """What may be scored beside the text."""

    passages: Annotated[
        Path | None, typer.Option(help="JSON lines with a text each: is the last word predicted?")
    ] = None
    count: Annotated[int | None, typer.Option(min=1, help="The first so many passages.")] = None
    prompt: Annotated[
        list[str] | None, typer.Option(help="Continue this before and after the edits; repeatable.")
    ] = None
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write after each prompt.")] = 30
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest token; else sample.")] = 0.0
    shift: Annotated[bool, typer.Option("--shift", help="Which tokens gain and lose probability.")] = False

    def asked(self) -> tuple[Passages | None, Writing]:
        """The same for the verb."""
        from superweights import Passages, Writing

        passages = None if self.passages is None else Passages(self.passages, self.count)
        return passages, Writing(tuple(self.prompt or ()), self.new_tokens, self.temperature, self.shift)


@grouped
def score(
    model: options.Model,
    edit: options.Edits = None,
    further: Further = Further(),
    seed: options.Seed = 0,
    cut: ScoredCut = ScoredCut(),
    opened: Sharable = Sharable(),
    output: Output = Output(),
) -> None:
    """Score a model on a text, as it is and with edited weights.

    Example: superweights score embedded --edit 'model.layers.11.mlp.down_proj.weight[507, 1229]=0'
    """
    from superweights import score as verb

    source, (passages, writing), asked = opened.source(model), further.asked(), {"seed": seed}
    with console.progress() as bar:
        record = verb(
            source, edit or (), cut.reading(), passages=passages, writing=writing, progress=bar, **asked
        )
    output.finish(record)
