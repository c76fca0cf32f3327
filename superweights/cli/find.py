"""`superweights find`."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from superweights.cli import console, options
from superweights.errors import SuperweightsError
from superweights.progress import Progress

if TYPE_CHECKING:
    from superweights.discovery import Findings
    from superweights.record import Record, Score, SuperWeight

_LEGEND = (
    "share: of the output that this one product makes; loss: what it rises by without the weight, nats/token; "
    "controls: the same for weights that should not matter, the largest; beside: when the strongest other is "
    "gone already."
)
# The columns that a narrow terminal does without, the first to go in front.
_LEAST_FIRST = ("role", "spike in", "share", "spike out", "beside", "controls", "value")
_COLOURS = {"critical": "bold red", "partial": "yellow", "benign": "green", "none": "dim"}


def find(
    model: options.ModelOrEmbedded = None,
    text: Annotated[
        Path | None, typer.Option(help="Text file to confirm on, instead of built-in prose.")
    ] = None,
    windows: Annotated[
        int, typer.Option(min=0, help="Windows of text to confirm on; 0: only the prompts.")
    ] = 8,
    length: Annotated[int, typer.Option(min=4, help="Tokens in a window.")] = 32,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt to search on (repeatable), instead of the built-in ones."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="How often to look again without the proven ones.")] = 1,
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
    from superweights.checkpoint import open_checkpoint

    _check(mode, out)
    loading = {"dtype": dtype, "device": device}
    with (
        open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint,
        _progress() as progress,
    ):
        if mode == "reference":
            _show_published(checkpoint, threshold, loading, as_json)
            return
        settings = {"windows": windows, "length": length, "rounds": rounds, "seed": seed}
        findings = _search(checkpoint, settings, prompt, text, progress, loading)
    if out is not None:
        console.write_out(out, record_of(findings).to_json() + "\n")
    if as_json:
        _print_json(findings.candidates)
    else:
        _print_table(findings)


def _check(mode: str, out: Path | None) -> None:
    if mode not in ("default", "reference"):
        raise SuperweightsError(f"There is no mode {mode!r}.", hint="use --mode default or --mode reference.")
    console.check_out(out)


def _search(checkpoint, settings: dict[str, Any], prompt, text: Path | None, progress, loading) -> Findings:
    from superweights.discovery import Search, find
    from superweights.subject.text import read_text

    search = Search(prompts=tuple(prompt) if prompt else None, **settings)
    read = read_text(text) if text is not None else None
    return find(checkpoint, search, text=read, progress=progress, **loading)


@contextmanager
def _progress() -> Iterator[Progress]:
    with console.progress_bar("opening") as bar:
        task = bar.task_ids[0]
        yield lambda label, done, total: bar.update(task, description=label, completed=done, total=total)


def record_of(findings: Findings) -> Record:
    """What was found, with all it takes to find it again."""
    from superweights.record import Record, versions

    return Record(
        command="find",
        inputs={key: findings.conditions.get(key) for key in ("name", "revision", "fingerprint")},
        versions=versions(),
        seed=findings.conditions["search"]["seed"],
        scores=(findings.base_loss, *((findings.joint,) if findings.joint else ())),
        findings=findings.to_json(),
    )


def _print_json(candidates) -> None:
    from superweights.record import to_json_line

    for candidate in candidates:
        console.print_line(to_json_line(candidate.to_json()))


def _print_table(findings: Findings) -> None:
    if findings.candidates:
        table, hidden, width = _fitting(findings.candidates)
        console.with_width(width).print(table)
        console.data.print(f"[dim]{_LEGEND}[/]")
        if hidden:
            console.data.print(f"[dim]Not shown, for want of room: {', '.join(hidden)}; see --json.[/]")
    console.data.print(_phases(findings))
    for note in findings.notes:
        console.data.print(f"[dim]note: {console.plain(note)}[/]")
    console.data.print(_conclusion(findings), soft_wrap=True)


def _fitting(candidates: tuple[SuperWeight, ...]) -> tuple[Table, list[str], int]:
    """The table with as many columns as fit beside the addresses, the titles of those left out, and its width.

    A file or a pipe has room for all.
    """
    from rich.measure import Measurement

    unlimited = console.data.options.update(max_width=10_000)
    bounded = console.data.is_terminal or "COLUMNS" in os.environ
    hidden: list[str] = []
    while True:
        table = _table(candidates, hidden)
        needed = Measurement.get(console.data, unlimited, table).maximum
        if not bounded:
            return table, hidden, needed
        if needed <= console.data.width or len(hidden) == len(_LEAST_FIRST):
            return table, hidden, console.data.width
        hidden.append(_LEAST_FIRST[len(hidden)])


def _table(candidates: tuple[SuperWeight, ...], hidden: Collection[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    rows = [_cells(candidate) for candidate in candidates]
    for title in (title for title in rows[0] if title not in hidden):
        left = title in ("weight", "role", "verdict")
        table.add_column(
            title, justify="left" if left else "right", no_wrap=title != "weight", overflow="fold"
        )
    for cells in rows:
        table.add_row(*(cell for title, cell in cells.items() if title not in hidden))
    return table


def _cells(c: SuperWeight) -> dict[str, str]:
    """What the table says about one weight, by column title."""
    return {
        "weight": console.plain(str(c.address)),
        "value": f"{c.value:.3f}",
        "spike in": _activation(c.spike_in),
        "spike out": _activation(c.spike_out),
        "share": "" if c.dominance is None else f"{c.dominance:.2f}",
        "loss": _rise(c.effect),
        "controls": _strongest(c),
        "beside": _rise(c.effect_with_others),
        "role": c.role or "",
        "verdict": f"[{_COLOURS[c.verdict or 'none']}]{c.verdict or ''}[/]",
    }


def _activation(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _rise(score: Score | None) -> str:
    return "" if score is None else f"{score.value:+.2f} ±{score.standard_error or 0:.2f}"


def _strongest(c: SuperWeight) -> str:
    """The control that cost most: what the verdict was judged against."""
    judged = [control.score.value for control in c.controls if control.judges]
    return f"{max(judged):+.4f}" if judged else ""


def _phases(findings: Findings) -> str:
    """One line: where the residual spike steps up, and where it steps down."""
    up = [str(layer.layer) for layer in findings.layers if layer.phase == "step_up"]
    down = [str(layer.layer) for layer in findings.layers if layer.phase == "step_down"]
    if not up and not down:
        return "residual stream: no massive activation."
    top = max(findings.layers, key=lambda layer: layer.peak)
    return (
        f"residual stream: steps up in layer {', '.join(up) or '-'}, down in {', '.join(down) or '-'}; largest "
        f"{top.peak:,.0f} ({top.ratio:,.0f} times the median), channel {top.channel}, after layer {top.layer}."
    )


def _conclusion(findings: Findings) -> str:
    proven = [(c, c.effect.value) for c in findings.super_weights if c.effect is not None]
    matter = sorted(proven, key=lambda pair: -pair[1])
    on = f"{findings.conditions['confirmed_on']}, base loss {findings.base_loss}"
    if not matter:
        spikes = "Nothing spikes" if not findings.candidates else "What spikes can be removed without loss"
        return f"[bold]No super weight.[/] {spikes} ({console.plain(on)})."
    worst, rise = matter[0]
    lines = [
        f"[bold]{len(matter)} super weight{'s' if len(matter) > 1 else ''}[/] "
        f"({sum(c.verdict == 'critical' for c, _ in matter)} critical). Without {console.plain(str(worst.address))} "
        f"perplexity is {_times(rise)} times as high; controls: losses in nats/token on {console.plain(on)}."
    ]
    if findings.joint is not None and len(findings.removed) > 1:
        lines.append(
            f"Without the {len(findings.removed)} strongest together: {_times(findings.joint.value)} times."
        )
    lines.append(
        "Next: keep these values exact when you quantize; test one with "
        f"[bold]superweights ablate {console.plain(_model_word(findings))} '{console.plain(str(worst.address))}'[/]."
    )
    return "\n".join(lines)


def _times(rise: float) -> str:
    """By what a loss rise in nats multiplies perplexity."""
    return f"{math.exp(rise):.3g}" if rise < 700 else "over 1e+304"


def _model_word(findings: Findings) -> str:
    return str(findings.conditions.get("name") or "embedded")


def _show_published(checkpoint, threshold: float, loading: dict[str, Any], as_json: bool) -> None:
    from superweights.discovery.published import find_as_published

    found = find_as_published(checkpoint, threshold, **loading)
    if as_json:
        _print_json(found)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in ("weight", "value", "spike in", "spike out", "share"):
        table.add_column(title, justify="left" if title == "weight" else "right", no_wrap=title == "weight")
    for c in found:
        numbers = f"{c.value:.3f}", f"{c.spike_in:,.1f}", f"{c.spike_out:,.1f}", f"{c.dominance:.2f}"
        table.add_row(console.plain(str(c.address)), *numbers)
    console.data.print(table)
    console.data.print(
        f"The published procedure: {len(found)} layers pass {threshold:g} in both. A share far from 1 is a false "
        "pair, and nothing here is proven: run superweights find without --mode reference."
    )
