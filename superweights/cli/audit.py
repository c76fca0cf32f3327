"""`superweights audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console, options
from superweights.cli.printing import finish, print_table

if TYPE_CHECKING:
    from superweights.record import Record


def audit(
    quantized: options.Model,
    against: Annotated[
        str, typer.Option(help="The original: folder, file, org/name\\[@revision], or 'embedded'.")
    ],
    weights: options.NamedWeights = None,
    from_: options.FromRecord = None,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Run neither model.")] = False,
    text: options.TextFile = None,
    window: options.Window = 128,
    windows: options.Windows = 8,
    bos: options.Bos = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Hold a quantized checkpoint against the original: super weights, super activation, sinks, predictions.

    Example: superweights audit smollm2-int4 --against embedded
    """
    from superweights.subject import Reading
    from superweights.verbs.audit import audit as verb

    console.check_out(out)
    trust = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
    subject, original = (options.source(each, "auto", device, **trust) for each in (quantized, against))
    reading = None if weights_only else Reading(text, window, windows, bos=bos)
    with console.progress() as bar:
        record = verb(subject, original, weights or (), reading, record=from_, seed=seed, progress=bar)
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    from rich import box
    from rich.table import Table

    found = record.findings

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("super weight", no_wrap=True)
    for name in ("before", "after", "steps", "matrix error"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for fate in found.weights:
        steps = "" if fate.steps is None else f"{fate.steps:+.2f}"
        numbers = f"{fate.before:.4g}", f"{fate.after:.4g}", steps, f"{fate.matrix_error:.1%}"
        table.add_row(console.plain(str(fate.address)), *numbers, fate.verdict)
    if found.weights:
        print_table(table)
    else:
        console.data.print("There is no super weight to follow: predictions alone are judged.")
    show = console.data.print
    if found.activation_before is not None and found.activation_after is not None and found.comparison:
        ratio = found.activation_after / found.activation_before
        show(
            f"super activation (after block {found.layer}, channel {found.channel}): {found.activation_before:,.0f} "
            f"before, {found.activation_after:,.0f} after ({ratio:.2f} times)",
            soft_wrap=True,
        )
        show(
            f"attention on the first token: {found.sink_before} before, {found.sink_after} after",
            soft_wrap=True,
        )
        compared = found.comparison
        show(
            f"perplexity {compared.base.value:.4g} before, {compared.other.value:.4g} after; loss {compared.loss}; "
            f"KL {compared.kl}; same top {compared.agreement.value:.1%}",
            soft_wrap=True,
        )
        show(
            "Weights as the checkpoint has them, in the original's model in float32: what kernels round is not in it."
        )
    show(
        f"{console.plain(str(record.inputs['name']))} ({found.method}): [bold]{found.verdict}[/]",
        soft_wrap=True,
    )
