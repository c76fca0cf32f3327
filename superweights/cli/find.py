"""`superweights find`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.groups import Lines, Sharable, grouped

if TYPE_CHECKING:
    from superweights.record import Record

_INTERRUPTED = 130
Text = Annotated[Path | None, options.in_text(help="Text file to prove on, instead of built-in prose.")]
FirstWindows = Annotated[
    int | None, options.in_text(min=0, help="Windows of the first proving pass (4); 0: only the prompts.")
]
Length = Annotated[
    int | None, options.in_text(min=4, help="Tokens in a window (128, or the model's context).")
]
Budget = Annotated[
    int, typer.Option(min=1, help="Proving passes at most; each takes more windows for what is open.")
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Eight windows of 32 tokens, no more where it is close.")
]
Prompt = Annotated[
    list[str] | None, typer.Option(help="A prompt to search on (repeatable), instead of the built-in ones.")
]
Greedy = Annotated[
    int,
    typer.Option(min=0, help="Write so many tokens without each super weight: does the text repeat itself?"),
]
Rounds = Annotated[int, typer.Option(min=0, help="How often to look again without the proven ones.")]
All = Annotated[bool, options.in_output("--all", help="Every spike and every number.")]
Explain = Annotated[
    str | None, options.in_output(help="Tell the story of one weight, TENSOR\\[i, j], instead of the table.")
]
Inputs = Annotated[
    Path | None,
    options.in_text(
        help="The model's own arguments, as named tensors in a .safetensors file, instead of text."
    ),
]
Mode = Annotated[str, typer.Option(help="'default', or 'reference': the published script's procedure.")]
Against = Annotated[
    str | None,
    typer.Option(help="Compare with the base that MODEL was made from, tensor by tensor; nothing runs."),
]
Threshold = Annotated[float, typer.Option(help="Spike threshold of --mode reference.")]


@grouped
def find(
    model: options.ModelOrEmbedded = None,
    budget: Budget = 6,
    quick: Quick = False,
    prompt: Prompt = None,
    rounds: Rounds = 1,
    greedy: Greedy = 0,
    mode: Mode = "default",
    threshold: Threshold = 50.0,
    seed: options.Seed = 0,
    tower: options.Tower = None,
    against: Against = None,
    inputs: Inputs = None,
    text: Text = None,
    windows: FirstWindows = None,
    length: Length = None,
    bos: options.Bos = "auto",
    opened: Sharable = Sharable(),
    everything: All = False,
    explain: Explain = None,
    output: Lines = Lines(),
) -> None:
    """Find the super weights of a model and prove each one by removing it.

    Example: [bold]superweights find[/] searches the embedded SmolLM2-135M-Instruct.
    """
    from superweights.tables.found import published
    from superweights.verbs.find import explained, search_of, searched

    story, shown = explained(explain), {"--explain": explain, "--all": everything}
    asked = {"budget": budget, "bos": bos, "rounds": rounds, "greedy": greedy, "seed": seed, "tower": tower}
    search = search_of(quick, prompt, windows=windows, length=length, **asked)
    with console.progress() as bar:
        how: Any = {"text": text, "inputs": inputs, "against": against, "progress": bar, "shown": shown}
        how |= {"out": output.out}
        made = searched(opened.source(model), mode, threshold, search, **how)
    if isinstance(made, list):
        console.show_rows(made, output.as_json, lambda: published(made))
    else:
        _finish(made, output, everything, story)


def _finish(record: Record, output: Lines, everything: bool, story: Any) -> None:
    """As every record, but for what `--all` and `--explain` ask; exit code 130 where it was interrupted."""
    from superweights.tables.found import parts

    output.keep(record)
    if record.command != "find":  # beside its base
        return console.show_record(record, output.as_json)
    if output.as_json:
        console.show_record(record, True)
    else:
        console.show(parts(record, everything, story, output.out))
    if record.findings.conditions["interrupted"]:
        raise typer.Exit(_INTERRUPTED)
