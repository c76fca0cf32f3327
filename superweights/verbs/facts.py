"""`superweights.facts`: where a model's extreme numbers are, for other tools."""

from __future__ import annotations

from collections import Counter
from typing import Any

from superweights.checkpoint import Checkpoint
from superweights.findings.facts import SCHEMA, Facts, MassiveLayer, SinkLayer, SiteRoom, Underflow
from superweights.interpretability import Study
from superweights.interpretability.headroom import Extreme, HeadroomReduction
from superweights.interpretability.massive.question import MassiveReduction
from superweights.interpretability.sinks.question import SinkReduction
from superweights.progress import Progress, silent
from superweights.quantization.underflow import lost
from superweights.record import Record
from superweights.stream.opening import opening
from superweights.subject import Reading, resolve_bos
from superweights.taps import Site

_FP16 = 65504.0
_COMMONEST = 4


def facts(
    model: Any = None,
    reading: Reading = Reading(window=64, windows=16),  # noqa: B008 - frozen
    *,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.facts.Facts`: massive channels, tokens and layers, sinks, float16 room, underflow.

    One pass over the text, and one over the weights of the blocks. `model` and `reading` as in `score`.

    >>> record = facts("embedded")                           # doctest: +SKIP
    >>> record.findings.massive[11].channels                 # doctest: +SKIP
    """
    progress("opening", 0, 1)
    with opening(model) as opened:
        bos = resolve_bos(opened.tokenizer, reading.bos)
        study = Study(opened.model, reading.cut(opened.tokenizer), opened.tokenizer, bos, progress=progress)
        massive, sinks, extremes = study.ask(MassiveReduction(), SinkReduction(), HeadroomReduction())
        conditions = {**reading.conditions(opened.tokenizer), "dtype": opened.conditions()["dtype"]}
        found = Facts(
            schema=SCHEMA,
            conditions=conditions,
            massive=tuple(
                _massive(s, e, opened.tokenizer) for s, e in extremes.items() if s.kind == "block_out"
            ),
            born=massive.born,
            erased=massive.erased,
            sinks=tuple(
                SinkLayer(layer, mass, rate)
                for layer, mass, rate in zip(sinks.layers, sinks.mass, sinks.sink_rate, strict=True)
            ),
            sink_positions=_sink_positions(sinks),
            sites=tuple(
                SiteRoom(site.kind, site.layer or 0, e.largest, _FP16 / max(e.largest, 1e-30))
                for site, e in extremes.items()
            ),
            tensors=_underflow(opened.checkpoint, progress),
        )
        return Record.of("facts", opened.checkpoint, findings=found, text_sha256=conditions["text_sha256"])


def _massive(site: Site, held: Extreme, tokenizer: Any) -> MassiveLayer:
    positions, tokens = Counter[int](), Counter[int]()
    for (position, token), count in held.places.items():
        positions[position] += count
        tokens[token] += count
    return MassiveLayer(
        site.layer or 0,
        held.largest,
        held.median,
        held.massive(),
        tuple(position for position, _ in positions.most_common(_COMMONEST)),
        tuple(tokenizer.decode([token]) for token, _ in tokens.most_common(_COMMONEST)),
    )


def _sink_positions(sinks: Any) -> tuple[int, ...]:
    first = (0,) if max(sinks.sink_rate, default=0.0) > 0 else ()
    return (*first, sinks.other_position) if sinks.other_rate > 0 else first


def _underflow(checkpoint: Checkpoint, progress: Progress) -> tuple[Underflow, ...]:
    names = [n for n, info in checkpoint.tensors.items() if len(info.shape) > 1 and _is_in_a_block(n)]
    found = []
    for done, name in enumerate(names):
        progress("weights", done, len(names))
        shares = lost(checkpoint.read(name))
        checkpoint.release([name])
        found.append(Underflow(name, shares.blocks_zero, shares.blocks_subnormal, shares.weights_zero))
    return tuple(found)


def _is_in_a_block(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))
