"""`superweights find`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights.discovery import Search
    from superweights.record import Record

_INTERRUPTED = 130


def find(
    model: options.ModelOrEmbedded = None,
    text: Annotated[
        Path | None, typer.Option(help="Text file to prove on, instead of built-in prose.")
    ] = None,
    windows: Annotated[
        int | None, typer.Option(min=0, help="Windows of the first proving pass (4); 0: only the prompts.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=4, help="Tokens in a window (128, or the model's context).")
    ] = None,
    budget: Annotated[
        int, typer.Option(min=1, help="Proving passes at most; each takes more windows for what is open.")
    ] = 6,
    quick: Annotated[
        bool, typer.Option("--quick", help="Eight windows of 32 tokens, no more where it is close.")
    ] = False,
    bos: options.Bos = "auto",
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt to search on (repeatable), instead of the built-in ones."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="How often to look again without the proven ones.")] = 1,
    everything: Annotated[bool, typer.Option("--all", help="Every spike and every number.")] = False,
    explain: Annotated[
        str | None, typer.Option(help="Tell the story of one weight, TENSOR\\[i, j], instead of the table.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="'default', or 'reference': the published script's procedure.")
    ] = "default",
    threshold: Annotated[float, typer.Option(help="Spike threshold of --mode reference.")] = 50.0,
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
    from superweights.cli.printing import finish
    from superweights.verbs.find import find as verb
    from superweights.verbs.find import found_record

    address = _address(explain)
    _check(mode, out)
    source = options.source(model, dtype, device, allow_pickle, trust_remote_code)
    if mode == "reference":
        found.print_published(source, threshold, as_json)
        return
    chosen = {"windows": windows, "length": length}
    asked = {"budget": budget, "bos": bos, "rounds": rounds, "seed": seed}
    search = _search(quick, tuple(prompt) if prompt else None, chosen, asked)
    with console.progress() as bar:
        record = found_record(verb(source, search, text=text, progress=bar))
    finish(record, as_json, out, lambda made: found.show(made.findings, everything, address), _lines)
    if record.findings.conditions["interrupted"]:
        raise typer.Exit(_INTERRUPTED)


def _search(
    quick: bool, prompts: tuple[str, ...] | None, chosen: dict[str, Any], asked: dict[str, Any]
) -> Search:
    """The search that was asked for; what is None is left to the defaults of its kind."""
    from superweights.discovery import Search

    settings = {**asked, "prompts": prompts, **{k: v for k, v in chosen.items() if v is not None}}
    if quick:
        most = {"most_windows": settings["windows"]} if "windows" in settings else {}
        return Search.quick(**settings, **most)
    return Search(**settings)


def _address(explain: str | None) -> Any:
    from superweights.address import Address

    return None if explain is None else Address.parse(explain)


def _check(mode: str, out: Path | None) -> None:
    if mode not in ("default", "reference"):
        raise SuperweightsError(f"There is no mode {mode!r}.", hint="use --mode default or --mode reference.")
    console.check_out(out)


def _lines(record: Record) -> list[dict[str, Any]]:
    """One line for each candidate."""
    return [candidate.to_json() for candidate in record.findings.candidates]
