"""Which sections records give, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from superweights.record import Record, Score
from superweights.reports.anatomy import answers
from superweights.reports.blocks import Block, Paragraph, Section, Table
from superweights.reports.census import entered, lines_of_index, not_entered, streams
from superweights.reports.discovery import journey, layer_map, spikes, verdicts, weights
from superweights.reports.effects import curves, edits, shifts, texts
from superweights.reports.naming import model_of
from superweights.reports.protection import activations, audits, plans, quantized
from superweights.reports.pruning import pruned

# Each builder gets the records that it reads, in order, and gives the blocks of its section.
_BUILDERS: tuple[tuple[str, tuple[str, ...], Callable[[Sequence[Record]], list[Block]]], ...] = (
    ("Verdict", ("find",), verdicts),
    ("Where they stand", ("find",), layer_map),
    ("The weights", ("find",), weights),
    ("Spikes in and out", ("find",), spikes),
    ("The super activation's journey", ("find",), journey),
    ("Quality against the factor", ("scale", "score", "ablate"), curves),
    ("What is lost", ("score", "ablate", "scale"), edits),
    ("With and without", ("score",), texts),
    ("Where the probability goes", ("score",), shifts),
    ("Plan", ("plan",), plans),
    ("Quantized", ("quantize",), quantized),
    ("Audit", ("audit",), audits),
    ("Rounded activations", ("activations",), activations),
    ("Pruned", ("prune",), pruned),
    ("Anatomy", ("anatomy",), answers),
    ("Models", ("census",), entered),
    ("Weights", ("census",), lines_of_index),
    ("Residual streams", ("census",), streams),
    ("Not entered", ("census",), not_entered),
)


def sections_of(records: Sequence[Record]) -> list[Section]:
    """The sections of a report about `records`; those without content are left out."""
    found = []
    for title, commands, build in _BUILDERS:
        read = [record for record in records if _word(record) in commands]
        blocks = build(read) if read else []
        if blocks:
            found.append(Section(title, tuple(blocks)))
    read_elsewhere = {command for _, commands, _ in _BUILDERS for command in commands}
    for record in records:
        if _word(record) not in read_elsewhere and record.scores:
            found.append(Section(f"{record.command}, {model_of(record)}", (score_table(record.scores),)))
    return [*found, Section("How this was made", tuple(_made(records)))]


def _word(record: Record) -> str:
    """The command's first word: "anatomy massive" is one of the anatomy records."""
    return record.command.split(" ")[0]


def score_table(scores: Sequence[Score]) -> Table:
    """Scores as rows."""
    rows = tuple((s.name, s.value, s.standard_error, s.unit, s.n) for s in scores)
    return Table("Scores; errors are standard errors", ("score", "value", "error", "unit", "samples"), rows)


def _made(records: Sequence[Record]) -> list[Block]:
    """Enough to make it again: command, model, fingerprint, seed, versions and conditions."""
    rows = tuple(
        (
            r.command,
            model_of(r),
            r.inputs.get("fingerprint"),
            r.seed,
            _conditions(r.findings),
        )
        for r in records
    )
    programs: dict[str, str] = {}
    for record in records:
        programs |= record.versions
    told = ", ".join(f"{name} {version}" for name, version in programs.items())
    table = Table("One row for each record", ("command", "model", "fingerprint", "seed", "conditions"), rows)
    return [
        Paragraph(
            "Each row was made by superweights COMMAND MODEL --out FILE; the same command with the same seed on a "
            "checkpoint of the same fingerprint makes it again. Errors are standard errors."
        ),
        table,
        Paragraph(f"Versions: {told}."),
    ]


def _conditions(findings: Any) -> str:
    told = findings.get("conditions") if isinstance(findings, dict) else getattr(findings, "conditions", None)
    if not isinstance(told, dict):
        return ""
    plain = {k: v for k, v in told.items() if v is not None and not isinstance(v, dict | list | tuple)}
    return ", ".join(
        f"{k.replace('_', ' ')} {v}" for k, v in plain.items() if k not in ("name", "fingerprint")
    )
