"""`superweights report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from superweights.cli import console, options
from superweights.wording import counted


def report(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Records (.json files that --out wrote), or one model; none: the embedded model."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here; else to stdout.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="html, md, json; else by the name of --output.")
    ] = None,
    window: options.Window = 128,
    windows: options.Windows = 8,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
) -> None:
    """Write one self-contained page about super weights, from records or from a model searched and tested now.

    Example: superweights report --output smollm2.html
    """
    from superweights.verbs.report import format_of
    from superweights.verbs.report import report as verb

    console.check_out(output)
    subject = _subject(what or [], dtype, device, allow_pickle, trust_remote_code)
    with console.progress() as bar:
        made = verb(
            subject, format_of(output, format_), window=window, windows=windows, seed=seed, progress=bar
        )
    console.write_out(output, made.text)
    if output is not None:
        said = f"{console.plain(str(output))}: {counted(len(made.records), 'record')}"
        console.notes.print(said, highlight=False, soft_wrap=True)


def _subject(what: list[str], *opening: Any) -> Any:
    """The files of records, or a model and how it is opened; only the latter brings torch."""
    if len(what) > 1 or (what and what[0].endswith((".json", ".jsonl"))):
        return what
    from superweights.subject import Source

    return Source(what[0] if what else None, *opening)
