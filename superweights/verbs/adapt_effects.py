"""`superweights.adapt_effects`: what an expert does to super weights, sinks and massive activations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from superweights.adaptation.applying import turned
from superweights.adaptation.bench import benched
from superweights.adaptation.consequences import consequences
from superweights.adaptation.expert import load_expert
from superweights.address import Address
from superweights.findings.adaptation import AdaptationEffects
from superweights.index.choice import some_weights
from superweights.interpretability.asking import ask
from superweights.interpretability.massive.question import MassiveReduction
from superweights.interpretability.sinks.question import SinkReduction
from superweights.progress import Progress, silent
from superweights.record import Record, Score
from superweights.subject import Reading


def adapt_effects(
    model: Any,
    expert: Path | str,
    weights: Sequence[Address | str] | Address | str = (),
    reading: Reading = Reading(window=64, windows=16),  # noqa: B008 - frozen
    *,
    record: Record | Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.AdaptationEffects`: the weights before and after the expert, and the profile of each.

    The weights are those named, else those of a `record` that `find` wrote, else the known ones. The profile is what
    `superweights anatomy sinks` and `massive` say in sum, on the same windows.
    """
    held = load_expert(Path(expert))
    with benched(model, progress=progress) as bench:
        addresses = some_weights(bench.checkpoint, weights, record).addresses
        factors = bench.factors_of(held)
        windows = reading.cut(bench.reader.tokenizer)
        adapted = lambda: turned(bench.model, factors, held.z)  # noqa: E731
        found = consequences(bench.model, adapted, addresses, windows, seed=seed)
        before = _profile(bench.model, windows)
        with adapted():
            after = _profile(bench.model, windows)
        told = AdaptationEffects(held.name, found.to_json(), before, after)
        return Record.of("adapt effects", bench.checkpoint, seed=seed, findings=told, expert=held.name)


def _profile(model: nn.Module, windows: Tensor) -> dict[str, Score]:
    """The summaries of both questions by name."""
    massive, sinks = ask(model, windows, MassiveReduction(), SinkReduction())
    return {score.name: score for score in (*massive.scores(), *sinks.scores())}
