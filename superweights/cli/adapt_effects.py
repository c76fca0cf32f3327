"""`superweights adapt effects`."""

from __future__ import annotations

from superweights.cli import adapt_options as own
from superweights.cli import console, options
from superweights.cli.groups import Chosen, Cut, Output, Placed, grouped


@grouped
def effects(
    model: options.Model,
    expert: own.Expert,
    held: Chosen = Chosen(),
    seed: options.Seed = 0,
    cut: Cut = Cut(64, 16),
    opened: Placed = Placed(),
    output: Output = Output(),
) -> None:
    """What an expert does to super weights: how far they move, whether the model still needs them, sinks and spikes.

    Example: superweights adapt effects embedded experts/arithmetic
    """
    from superweights import adapt_effects as verb

    source, weights, asked = opened.source(model), held.weights or (), {"record": held.from_, "seed": seed}
    with console.progress() as bar:
        record = verb(source, expert, weights, cut.reading(), progress=bar, **asked)
    output.finish(record)
