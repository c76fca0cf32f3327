"""`superweights.plan`: which matrix of a model deserves how many bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_picture, check_replaceable
from superweights.budget import candidates_for
from superweights.budget.planning import plan_bits
from superweights.checkpoint import opened_checkpoint
from superweights.findings import Planned
from superweights.picture.lines import Series, line_chart
from superweights.picture.page import svg
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject import Reading, Source
from superweights.verbs.quantize import kept_weights


def plan(
    model: Any = None,
    bits: float = 4.25,
    reading: Reading = Reading(window=128, windows=4),  # noqa: B008 - frozen
    *,
    format: str = "packed",
    keep: Sequence[str | Address] = ("known",),
    record: Record | Path | str | None = None,
    save: Path | str | None = None,
    plot: Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Planned`: `bits` stored bits per weight, scales included, spent by measured sensitivity.

    The first half of the windows measures, the second checks. `format` says whose schemes there are; `keep` and
    `record` as in `quantize`. The plan is written to `save` (for `quantize`), the frontier drawn into `plot` (.svg).

    >>> record = plan("embedded", 4.25, save="plan.json")     # doctest: +SKIP
    """
    candidates_for(format)
    check_picture(None if plot is None else Path(plot))
    if save is not None:
        check_replaceable(Path(save))
    source = Source.of(model)
    with opened_checkpoint(source) as checkpoint:
        chosen = kept_weights(checkpoint, keep, record)
        tokens = reading.tokens_of(checkpoint, seed)
        made = plan_bits(
            checkpoint,
            bits,
            tokens,
            chosen.addresses,
            format,
            device=source.device,
            seed=seed,
            notes=chosen.notes(),
            progress=progress,
        )
        if save is not None:
            write_text(Path(save), made.plan.to_json() + "\n")
        if plot is not None:
            write_text(Path(plot), frontier_drawn(made.found))
        return Record.of("plan", checkpoint, seed=seed, scores=made.scores, findings=made.found)


def frontier_drawn(found: Planned) -> str:
    """Expected KL against bits per weight, with the plan marked, as SVG."""
    chart = line_chart(
        "Expected divergence",
        "bits per weight",
        "KL, nats",
        [Series("plans", list(found.frontier))],
        log=True,
        marks={found.bits_per_weight: "the plan"},
    )
    return svg([chart])
