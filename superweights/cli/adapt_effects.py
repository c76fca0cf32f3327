"""`superweights adapt effects`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.printing import finish, print_table, table

if TYPE_CHECKING:
    from superweights.record import Record


def effects(
    model: options.Model,
    expert: own.Expert,
    weights: options.NamedWeights = None,
    from_: options.FromRecord = None,
    text: options.TextFile = None,
    window: options.Window = 64,
    windows: options.Windows = 16,
    bos: options.Bos = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """What an expert does to super weights: how far they move, whether the model still needs them, sinks and spikes.

    Example: superweights adapt effects embedded experts/arithmetic
    """
    from superweights.subject import Reading
    from superweights.verbs.adapt_effects import adapt_effects

    console.check_out(out)
    reading = Reading(text, window, windows, None, bos)
    source = options.source(model, device=device)
    with console.progress() as bar:
        record = adapt_effects(source, expert, weights or (), reading, record=from_, seed=seed, progress=bar)
    finish(record, as_json, out, show_record)


def show_record(record: Record) -> None:
    found = record.findings
    rows = table("weight", "before", "after", "moved", "loss without it", "under the expert")
    for each in found.consequences["weights"]:
        before, after = each["loss_before"], each["loss_after"]
        rows.add_row(
            *(console.plain(each["address"]), f"{each['before']:.4g}", f"{each['after']:.4g}"),
            *(f"{each['moved']:.2f}", _told(before), _told(after)),
        )
    controls = (found.consequences["control_before"], found.consequences["control_after"])
    rows.add_row("as many at random", "", "", "", *map(_told, controls))
    print_table(rows)
    console.data.print(
        f"the expert itself costs {_told(found.consequences['loss'])} nats per token on this text."
    )
    profile = table("profile", "base", "expert")
    for name, score in found.before.items():
        profile.add_row(console.plain(name), f"{score.value:.4g}", f"{found.after[name].value:.4g}")
    print_table(profile)


def _told(score: dict) -> str:
    error = score["standard_error"]
    return f"{score['value']:.4f}" + ("" if error is None else f" ±{error:.4f}")
