"""`superweights reproduce`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.errors import SuperweightsError

# The narrowest that a table is set, where nobody can widen the window: in a pipe.
_WIDE = 120

if TYPE_CHECKING:
    from superweights.record import Record
    from superweights.reproductions import Reproduction, Setting


Lambada = Annotated[
    Path | None, typer.Option(help="JSON lines with a text each, which ends in the word to predict.")
]
Limit = Annotated[int, typer.Option(min=1, help="The first so many of them, and of each task.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", help="Table 1: also this task of lm-evaluation-harness, see evaluate; repeatable."
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option("--weight", help="A super weight, TENSOR[i, j]; repeatable. Else known or found."),
]
From = Annotated[Path | None, typer.Option("--from", help="Its super weights: a file that find --out wrote.")]
Others = Annotated[int, typer.Option(min=1, help="How many other large weights to prune.")]
Control = Annotated[
    bool, typer.Option("--control", help="Figure 5: also another change that does equal damage.")
]
AsLines = Annotated[bool, typer.Option("--json", help="JSON lines: the conditions, then the rows.")]


def reproduce(
    experiment: Annotated[str, typer.Argument(help="table1, figure3, figure4, figure5 or figure6.")],
    model: Annotated[
        str | None,
        typer.Argument(help="Folder, .gguf or .safetensors file, org/name[@revision]; none: embedded."),
    ] = None,
    text: options.TextFile = None,
    window: options.Window = 512,
    windows: options.Windows = 8,
    bos: options.Bos = False,
    batch_size: options.BatchSize = None,
    lambada: Lambada = None,
    limit: Limit = 500,
    task: Tasks = None,
    prompt: Annotated[str | None, typer.Option(help="The sentence of figures 3 and 4.")] = None,
    weight: Weights = None,
    record: From = None,
    others: Others = 7000,
    scales: Annotated[str | None, typer.Option(help="The factors of figure 6, as 0,0.5,1,2.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Tokens of each kind in figure 5.")] = 16,
    control: Control = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: AsLines = False,
    svg: Annotated[Path | None, typer.Option(help="Also draw it into this file (figures).")] = None,
    out: options.Out = None,
) -> None:
    """Run an experiment of the super weight paper on any model, beside the published figures.

    Example: superweights reproduce figure3
    """
    from superweights.checkpoint import open_checkpoint
    from superweights.reproductions import reproduce

    own: dict[str, Any] = {"window": window, "windows": windows, "bos": bos, "batch_size": batch_size}
    own |= {
        "tasks": tuple(task or ()),
        "task_limit": limit,
        "others": others,
        "top": top,
        "control": control,
        "seed": seed,
    }
    own |= {"prompt": prompt} if prompt else {}
    own |= {"scales": _factors(scales)} if scales else {}
    setting = _setting(own, text, (lambada, limit), weight or [], record)
    with (
        open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint,
        console.progress() as bar,
    ):
        found = reproduce(experiment, checkpoint, setting, progress=bar, dtype=dtype, device=device)
    _save(found, svg, out)
    (_print_json if as_json else _print_table)(found)


def _setting(
    own: dict[str, Any],
    text: Path | None,
    lambada: tuple[Path | None, int],
    weights: list[str],
    record: Path | None,
) -> Setting:
    from superweights.address import Address
    from superweights.reproductions import Setting
    from superweights.subject.text import read_passages, read_text

    path, limit = lambada
    return Setting(
        text=read_text(text) if text else None,
        passages=read_passages(path, limit) if path else (),
        weights=tuple(Address.parse(each) for each in weights),
        record=_read_record(record) if record else None,
        **own,
    )


def _factors(written: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in written.split(","))
    except ValueError:
        raise SuperweightsError(
            f"{written!r} is no list of factors.", hint="write --scales 0,0.5,1,2."
        ) from None


def _read_record(path: Path) -> Record:
    from superweights.record import Record
    from superweights.subject.text import read_text

    try:
        return Record.from_json(read_text(path).text)
    except (ValueError, KeyError, TypeError) as error:
        raise SuperweightsError(
            f"{path} is no record.", hint="give a file written by superweights find --out."
        ) from error


def _save(found: Reproduction, svg: Path | None, out: Path | None) -> None:
    if svg is not None:
        from superweights.reproductions.plot import draw

        console.write_out(svg, draw(found))
    if out is not None:
        console.write_out(out, found.record().to_json() + "\n")


def _print_json(found: Reproduction) -> None:
    from superweights.record import to_json_line

    whole = found.to_json()
    rows = whole.pop("rows")
    console.print_line(to_json_line({"kind": "conditions", **whole}))
    for row in rows:
        console.print_line(to_json_line({"kind": "row", "experiment": found.experiment, **row}))


def _print_table(found: Reproduction) -> None:
    from rich.console import Console
    from rich.table import Table

    told = found.published
    model = found.conditions.get("name") or "the embedded model"
    console.data.print(f"[bold]{console.plain(found.title)}[/], {console.plain(str(model))}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in found.columns:
        style = "dim" if column.whose == "published" else None
        side = "left" if column.whose == "label" else "right"
        table.add_column(console.plain(column.heading), justify=side, style=style, no_wrap=True)
    for row in found.rows:
        table.add_row(*(console.plain(cell(row.get(column.key))) for column in found.columns))
    Console(width=max(console.data.width, _WIDE), highlight=False).print(table)
    for weight in found.weights:
        console.data.print(f"[dim]{console.plain(_weight(weight))}[/]", soft_wrap=True)
    lines = [*found.sentences, *(f"note: {note}" for note in found.notes), *_conditions(found)]
    if not told.same_model:
        lines.append(
            f"The paper has no figures for this model; those of {told.model} stand beside for orientation."
        )
    lines.append(f"Published: {told.source}; {told.protocol}.")
    lines += [f"known error: {error}" for error in told.errors]
    console.data.print(*lines, sep="\n", markup=False, soft_wrap=True)


def cell(value: Any) -> str:
    """One value as a person reads it: scores with errors, intervals, tokens in quotes; None is empty."""
    from superweights.record import Score

    if value is None:
        return ""
    if isinstance(value, Score) and value.unit.startswith("of "):
        return f"{value.value:.1%}" + (f" ±{100 * value.standard_error:.1f}" if value.standard_error else "")
    if isinstance(value, Score):
        error = value.standard_error or 0.0
        decimals = min(4, max(0, 1 - math.floor(math.log10(error)))) if error > 0 else 4
        return f"{value.value:,.{decimals}f}" + (f" ±{error:,.{decimals}f}" if error > 0 else "")
    if isinstance(value, tuple):
        return f"{value[0]:.2g} to {value[1]:.2g}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    told = str(value)
    return told if told.isprintable() and told == told.strip() else repr(told)


def _weight(weight: dict[str, Any]) -> str:
    spikes = ""
    if weight["spike_in"] is not None:
        spikes = f", {weight['spike_in']:.4g} in, {weight['spike_out']:.4g} out on the prompt"
    return f"super weight {weight['address']} = {weight['value']:.5g}{spikes}"


def _conditions(found: Reproduction) -> list[str]:
    held = found.conditions
    lines = [f"Super weights: {found.chosen}."] if found.weights else []
    if "window" in held:
        bos = "with" if held["bos"] else "without"
        lines.append(
            f"Text: {held['windows']} windows of {held['window']} tokens {bos} BOS of {held['text']}, SHA-256 "
            f"{held['text_sha256'][:12]}; {held['passages']} passages; {held['dtype']} on {held['device']}. "
            "Errors are standard errors."
        )
    else:
        lines.append(f"Prompt: {held['prompt']!r}; {held['dtype']} on {held['device']}.")
    return lines
