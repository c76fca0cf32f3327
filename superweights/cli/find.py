"""`superweights find`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options

if TYPE_CHECKING:
    from superweights.record import Record

_INTERRUPTED = 130
Text = Annotated[Path | None, typer.Option(help="Text file to prove on, instead of built-in prose.")]
FirstWindows = Annotated[
    int | None, typer.Option(min=0, help="Windows of the first proving pass (4); 0: only the prompts.")
]
Length = Annotated[int | None, typer.Option(min=4, help="Tokens in a window (128, or the model's context).")]
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
All = Annotated[bool, typer.Option("--all", help="Every spike and every number.")]
Explain = Annotated[
    str | None, typer.Option(help="Tell the story of one weight, TENSOR\\[i, j], instead of the table.")
]
Mode = Annotated[str, typer.Option(help="'default', or 'reference': the published script's procedure.")]
Threshold = Annotated[float, typer.Option(help="Spike threshold of --mode reference.")]


def find(
    model: options.ModelOrEmbedded = None,
    text: Text = None,
    windows: FirstWindows = None,
    length: Length = None,
    budget: Budget = 6,
    quick: Quick = False,
    bos: options.Bos = "auto",
    prompt: Prompt = None,
    rounds: Rounds = 1,
    greedy: Greedy = 0,
    everything: All = False,
    explain: Explain = None,
    mode: Mode = "default",
    threshold: Threshold = 50.0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJsonLines = False,
    out: options.Out = None,
) -> None:
    """Find the super weights of a model and prove each one by removing it.

    Example: [bold]superweights find[/] searches the embedded SmolLM2-135M-Instruct.
    """
    from superweights.cli import found
    from superweights.verbs.find import search_of, searched

    show = found.teller(everything, explain)
    console.check_out(out)
    source = options.source(model, dtype, device, allow_pickle, trust_remote_code)
    asked = {"budget": budget, "bos": bos, "rounds": rounds, "greedy": greedy, "seed": seed}
    search = search_of(quick, prompt, windows=windows, length=length, **asked)
    with console.progress() as bar:
        made = searched(source, mode, threshold, search, text=text, progress=bar)
    found.finish_search(made, as_json, out, show)
    if _was_interrupted(made):
        raise typer.Exit(_INTERRUPTED)


def _was_interrupted(made: Record | list[Any]) -> bool:
    return not isinstance(made, list) and made.findings.conditions["interrupted"]
