"""`superweights report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.console import progress
from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights.record import Record

_PROMPTS = ("The capital of France is", "To bake bread, first", "The old man looked at the sea and")
_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.5, 2.0, 3.0)
_ENDINGS = (".json", ".jsonl")


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
    from superweights.reports import FORMATS, read_records, render

    console.check_out(output)
    form = format_ or (
        output.suffix.lstrip(".").replace("htm", "html").replace("htmll", "html") if output else "html"
    )
    if form not in FORMATS:
        raise SuperweightsError(f"There is no format {form!r}.", hint=f"give --format {', '.join(FORMATS)}.")
    named = what or []
    if named and all(name.endswith(_ENDINGS) for name in named):
        records = read_records(Path(name) for name in named)
    elif len(named) > 1:
        raise SuperweightsError(
            "A report is about records, or about one model.",
            hint="make records of several models first: superweights find MODEL --out NAME.json.",
        )
    else:
        from superweights.subject import Reading, Source

        source = Source(named[0] if named else "embedded", dtype, device, allow_pickle, trust_remote_code)
        records = _looked_at(source, Reading(window=window, windows=windows), seed)
    console.write_out(output, render(records, form))
    if output is not None:
        console.notes.print(
            f"{console.plain(str(output))}: {len(records)} records", highlight=False, soft_wrap=True
        )


def _looked_at(source, reading, seed: int) -> list[Record]:
    """The model searched; then, for what matters most, scaled, removed, and asked to write."""
    from superweights.checkpoint import open_checkpoint
    from superweights.cli.find import record_of
    from superweights.cli.scoring import Writing, measure
    from superweights.discovery import Search, find
    from superweights.editing import scale, zero

    with (
        progress() as bar,
        open_checkpoint(
            source.name, allow_pickle=source.allow_pickle, trust_remote_code=source.trust_remote_code
        ) as checkpoint,
    ):
        search = Search(seed=seed)
        findings = find(checkpoint, search, progress=bar, dtype=source.dtype, device=source.device)
        has_tokenizer = checkpoint.tokenizer() is not None
    records = [record_of(findings)]
    weights = [weight.address for weight in findings.super_weights]
    if not weights or not has_tokenizer:
        return records
    worst = max(
        findings.super_weights, key=lambda weight: weight.effect.value if weight.effect else 0.0
    ).address
    with progress() as bar:
        rows = [(f"{factor:g} times", scale([worst], factor)) for factor in _FACTORS]
        records.append(measure("scale", source, reading, rows, seed=seed, progress=bar))
        rows = [("without the strongest", zero(worst))]
        if len(weights) > 1:
            rows.append((f"without all {len(weights)}", zero(weights)))
        writing = Writing(_PROMPTS, shift=True)
        records.append(measure("score", source, reading, rows, writing=writing, seed=seed, progress=bar))
    return records
