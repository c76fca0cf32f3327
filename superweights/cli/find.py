"""`superweights find`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from superweights.cli import console
from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights.find import Findings
    from superweights.record import SuperWeight

_LEGEND = (
    "share: of the output that this one product makes; loss: what it rises by without the weight, nats/token; "
    "controls: the same for weights that should not matter, the largest; beside: when the strongest other is "
    "gone already."
)
_COLOURS = {"critical": "bold red", "partial": "yellow", "benign": "green", "none": "dim"}


def find(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Folder, .gguf or .safetensors file, org/name[@revision]; none: the embedded model."
        ),
    ] = None,
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
    dtype: Annotated[
        str, typer.Option(help="auto (as stored, never float16), float32, bfloat16, float16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    allow_pickle: Annotated[bool, typer.Option(help="Read pickled weights (weights_only).")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the checkpoint's own model code.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the controls.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, one per candidate.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write the whole record to this file, as JSON.")
    ] = None,
) -> None:
    """Find the super weights of a model and prove each one by removing it.

    Example: [bold]superweights find[/] searches the embedded SmolLM2-135M-Instruct.
    """
    from superweights.checkpoint import open_checkpoint

    loading = {"dtype": dtype, "device": device}
    with (
        open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint,
        _progress() as progress,
    ):
        if mode == "reference":
            _show_published(checkpoint, threshold, loading, as_json)
            return
        if mode != "default":
            raise SuperweightsError(
                f"There is no mode {mode!r}.", hint="use --mode default or --mode reference."
            )
        settings = {"windows": windows, "length": length, "rounds": rounds, "seed": seed}
        findings = _search(checkpoint, settings, prompt, text, progress, loading)
    if out is not None:
        console.write_out(out, _record(findings) + "\n")
    if as_json:
        _print_json(findings.candidates)
    else:
        _print_table(findings)


def _search(checkpoint, settings: dict[str, Any], prompt, text: Path | None, progress, loading) -> Findings:
    from superweights.find import Search, find
    from superweights.text import read_text

    search = Search(prompts=tuple(prompt) if prompt else None, **settings)
    read = read_text(text) if text is not None else None
    return find(checkpoint, search, text=read, progress=progress, **loading)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    with console.progress_bar("opening") as bar:
        task = bar.task_ids[0]
        yield lambda label, done, total: bar.update(task, description=label, completed=done, total=total)


def _record(findings: Findings) -> str:
    from superweights.record import Record, versions

    return Record(
        command="find",
        inputs={key: findings.conditions.get(key) for key in ("name", "revision", "fingerprint")},
        versions=versions(),
        seed=findings.conditions["search"]["seed"],
        scores=(findings.base_loss, *((findings.joint,) if findings.joint else ())),
        findings=findings.to_json(),
    ).to_json()


def _print_json(candidates) -> None:
    from superweights.record import to_json_line

    for candidate in candidates:
        console.print_line(to_json_line(candidate.to_json()))


def _print_table(findings: Findings) -> None:
    if findings.candidates:
        console.data.print(_table(findings.candidates))
        console.data.print(f"[dim]{_LEGEND}[/]")
    console.data.print(_phases(findings))
    for note in findings.notes:
        console.data.print(f"[dim]note: {console.plain(note)}[/]")
    console.data.print(_conclusion(findings), soft_wrap=True)


def _table(candidates: tuple[SuperWeight, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("weight", no_wrap=True, overflow="fold")
    for title in ("value", "spike in", "spike out", "share", "loss", "controls", "beside"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("role")
    table.add_column("verdict")
    for c in candidates:
        table.add_row(
            console.plain(str(c.address)),
            f"{c.value:.3f}",
            f"{c.spike_in:.0f}" if abs(c.spike_in) >= 100 else f"{c.spike_in:.1f}",
            f"{c.spike_out:.0f}" if abs(c.spike_out) >= 100 else f"{c.spike_out:.1f}",
            f"{c.dominance:.2f}",
            _rise(c.effect),
            _strongest(c),
            _rise(c.effect_with_others) if c.effect_with_others else "",
            c.role or "",
            f"[{_COLOURS[c.verdict]}]{c.verdict}[/]",
        )
    return table


def _rise(score) -> str:
    return f"{score.value:+.2f} ±{score.standard_error or 0:.2f}"


def _strongest(c: SuperWeight) -> str:
    """The control that cost most: what the verdict was judged against."""
    judged = [control for control in c.controls if "largest" not in control.name]
    return f"{max(control.value for control in judged):+.4f}" if judged else ""


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
    matter = sorted(findings.super_weights, key=lambda c: -c.effect.value)
    on = f"{findings.conditions['confirmed_on']}, base loss {findings.base_loss}"
    if not matter:
        spikes = "Nothing spikes" if not findings.candidates else "What spikes can be removed without loss"
        return f"[bold]No super weight.[/] {spikes} ({console.plain(on)})."
    worst = matter[0]
    times = math.exp(worst.effect.value)
    lines = [
        f"[bold]{len(matter)} super weight{'s' if len(matter) > 1 else ''}[/] "
        f"({sum(c.verdict == 'critical' for c in matter)} critical). Without {console.plain(str(worst.address))} "
        f"perplexity is {times:.3g} times as high; controls: losses in nats/token on {console.plain(on)}."
    ]
    if findings.joint is not None and len(findings.removed) > 1:
        lines.append(
            f"Without the {len(findings.removed)} strongest together: {math.exp(findings.joint.value):.3g} times."
        )
    lines.append(
        "Next: keep these values exact when you quantize; test one with "
        f"[bold]superweights ablate {console.plain(_model_word(findings))} '{console.plain(str(worst.address))}'[/]."
    )
    return "\n".join(lines)


def _model_word(findings: Findings) -> str:
    return str(findings.conditions.get("name") or "embedded")


def _show_published(checkpoint, threshold: float, loading: dict[str, Any], as_json: bool) -> None:
    from superweights.find.published import find_as_published

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
